//! ctr
fn main() {}
