//! Contracts over every way there is: a channel in memory, the ABI of a library, a unix socket.
//!
//! What is sent must arrive unchanged, what fails must say so in the same words, and what is dropped, late or panics must behave alike,
//! whatever is in between.

mod calls;
mod content;
mod library;
mod peer;
mod probe;
mod round_trip;
mod store;
mod streams;
mod values;
mod ways;
