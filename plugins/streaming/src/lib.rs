//! Named streams between a client and the daemon
