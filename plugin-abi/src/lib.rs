//! The plugin contract, ABI and SDK of Orlop
