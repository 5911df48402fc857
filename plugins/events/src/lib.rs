//! The events exchange
