//! Layers on a real file system, as root: archives that tar(1) made, archives that mean harm, whiteouts under a real overlay, and
//! random trees that must come back as they were.

mod alone;
mod hostile;
mod real_tar;
mod round_trip;
mod support;
mod whiteouts;
