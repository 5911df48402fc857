//! End-to-end tests of Orlop
