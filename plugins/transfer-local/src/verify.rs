//! Whether an image may be pulled: what the image verifiers of the daemon say.

use orlop_plugin::contract::{Ctx, Judgement};
use orlop_plugin::registration::kind;
use orlop_plugin::{Error, Host, Result};

use crate::oci::Descriptor;

/// Asks every image verifier there is, one after the other, about the image that `name` resolved to. Who gives no judgement refuses.
///
/// `PermissionDenied` when one rejects it; what kept one from judging, with its code.
pub async fn verify(host: &Host, ctx: &Ctx, name: &str, target: &Descriptor) -> Result<()> {
    for plugin in host.plugins(kind::IMAGE_VERIFIER).await? {
        let (id, digest) = (&plugin.uri.id, &target.digest);
        let asked = match plugin.contracts.image_verifier() {
            Some(verifier) => verifier.verify(ctx, name, target.to_contract()).await,
            None => Err(Error::failed_precondition("it is no image verifier")),
        };
        let Judgement { accepted, reason } = asked.map_err(|error| {
            error.context(format!(
                "blocking pull of {name} with digest {digest}: image verifier {id} returned error"
            ))
        })?;
        if !accepted {
            tracing::warn!(name, %digest, verifier = %id, reason, "an image verifier blocked a pull");
            return Err(Error::permission_denied(format!(
                "image verifier {id} blocked pull of {name} with digest {digest} for reason: {reason}"
            )));
        }
        tracing::debug!(name, %digest, verifier = %id, reason, "an image verifier allowed a pull");
    }
    Ok(())
}
