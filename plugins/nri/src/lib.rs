//! The Node Resource Interface
