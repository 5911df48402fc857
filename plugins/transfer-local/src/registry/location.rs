//! Where a `Location` leads to.

use http::{HeaderValue, Uri};
use orlop_plugin::Result;

/// The URL that `location` names, in an answer of `base`. `FailedPrecondition` for any scheme but http and https.
pub fn follow(base: &Uri, location: &HeaderValue) -> Result<Uri> {
    orlop_registry::location::follow(base, location).map_err(super::said)
}
