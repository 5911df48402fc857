//! Stream processors: the programs of `[stream_processors]` that make a layer of what is none yet, an encrypted one for example.
//!
//! ```text
//!   content store ─▶ stdin │ program │ stdout ─▶ stdin │ program │ stdout ─▶ layer::apply
//!                    fd 3: the client's payload for it, if there is one
//! ```
//!
//! Which programs lead from a media type to one that can be applied is [`Processors::way`]; [`run`] runs them. Specified by containerd's
//! `docs/stream_processors.md` and `core/diff/stream_unix.go`.

mod program;
mod run;

use orlop_plugin::layer::{Compression, MEDIA_TYPE_LAYER};
use orlop_plugin::registration::StreamProcessor;
use orlop_plugin::{Error, Result};

pub(crate) use run::Pipeline;

/// More programs than this in a row are a circle.
const MAX_STEPS: usize = 16;

/// Those that the daemon is configured with, by id: of two that accept one media type, the first is taken.
pub(crate) struct Processors(Vec<StreamProcessor>);

/// A program on the way, and what it is given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) processor: StreamProcessor,
    pub(crate) media_type: String,
}

// === impl Processors ===

impl Processors {
    pub(crate) fn new(configured: Vec<StreamProcessor>) -> Self {
        Self(configured)
    }

    /// The programs that lead from `media_type` to a layer, and how what they make is compressed. They come before what is built in.
    ///
    /// `Unimplemented` when there is no way.
    pub(crate) fn way(&self, media_type: &str) -> Result<(Vec<Step>, Compression)> {
        let mut steps: Vec<Step> = Vec::new();
        let mut at = media_type;
        loop {
            let accepting = |processor: &&StreamProcessor| processor.accepts.iter().any(|accepted| accepted == at);
            let Some(processor) = self.0.iter().find(accepting) else {
                break;
            };
            if steps.len() == MAX_STEPS {
                return Err(Error::failed_precondition(format!(
                    "the stream processors lead in circles from media type {media_type:?}: see [stream_processors]"
                )));
            }
            steps.push(Step {
                processor: processor.clone(),
                media_type: at.to_owned(),
            });
            at = &processor.returns;
            // The goal, whoever would take it further.
            if at == MEDIA_TYPE_LAYER {
                break;
            }
        }
        let compression = Compression::of_layer(at).ok_or_else(|| match steps.last() {
            None => Error::unimplemented(format!("the walking differ knows no layers of media type {at:?}")),
            Some(last) => Error::unimplemented(format!(
                "the walking differ knows no layers of media type {at:?}, which the stream processor {} makes of {media_type:?}",
                last.processor.id
            )),
        })?;
        Ok((steps, compression))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use orlop_plugin::contract::Code;
    use std::slice::from_ref;

    const GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

    fn processor(id: &str, accepts: &[&str], returns: &str) -> StreamProcessor {
        StreamProcessor {
            id: id.into(),
            accepts: accepts.iter().map(|accepted| (*accepted).to_owned()).collect(),
            returns: returns.into(),
            ..StreamProcessor::default()
        }
    }

    #[track_caller]
    fn check(processors: &[StreamProcessor], from: &str, ids: &[&str], compression: Compression) {
        let (steps, at) = Processors::new(processors.to_vec()).way(from).expect("a way");
        let found: Vec<_> = steps.iter().map(|step| step.processor.id.as_str()).collect();
        assert_eq!((found.as_slice(), at), (ids, compression));
        assert!(steps.first().is_none_or(|step| step.media_type == from));
    }

    #[test]
    fn the_way_leads_to_a_layer() {
        let decrypt = processor("decrypt", &["x/encrypted", "y/encrypted"], GZIP);
        check(&[], GZIP, &[], Compression::Detect);
        check(from_ref(&decrypt), GZIP, &[], Compression::Detect);
        check(from_ref(&decrypt), "y/encrypted", &["decrypt"], Compression::Detect);
        let own = processor("own-gzip", &[GZIP], MEDIA_TYPE_LAYER);
        check(from_ref(&own), GZIP, &["own-gzip"], Compression::None);
        check(
            &[decrypt.clone(), own.clone()],
            "x/encrypted",
            &["decrypt", "own-gzip"],
            Compression::None,
        );
        // What a bare tar is made of is asked for once.
        let scan = processor("scan", &[MEDIA_TYPE_LAYER], MEDIA_TYPE_LAYER);
        check(from_ref(&scan), MEDIA_TYPE_LAYER, &["scan"], Compression::None);
        check(&[own, scan], GZIP, &["own-gzip"], Compression::None);
        check(
            &[decrypt.clone(), processor("later", &["x/encrypted"], MEDIA_TYPE_LAYER)],
            "x/encrypted",
            &["decrypt"],
            Compression::Detect,
        );
    }

    #[test]
    fn where_no_way_leads_it_says_how_far() {
        let refused =
            |processors: &[StreamProcessor], from| Processors::new(processors.to_vec()).way(from).expect_err("no way");
        assert_eq!(refused(&[], "x/encrypted").code, Code::Unimplemented);
        let error = refused(&[processor("odd", &["x/encrypted"], "y/odd")], "x/encrypted");
        assert_eq!(error.code, Code::Unimplemented);
        assert!(
            error.message.contains("\"y/odd\"") && error.message.contains("processor odd"),
            "{error}"
        );
        let circle = [processor("a", &["x"], "y"), processor("b", &["y"], "x")];
        let error = refused(&circle, "x");
        assert_eq!(error.code, Code::FailedPrecondition);
        assert!(error.message.contains("circles"), "{error}");
    }
}
