//! Pulls that image verifiers judge.

use std::sync::{Arc, Mutex};

use orlop_plugin::contract::{Code, Ctx, Descriptor, ImageVerifier, Judgement, async_trait};
use orlop_plugin::{Error, Result};

use super::here;
use super::registry::{having, resolver};
use crate::fixture::{Daemon, RegistryServer, TestImage};
use crate::oci::media_type;

/// Judges as it was told, and remembers what it was asked.
struct Judge {
    judgement: Result<Judgement>,
    asked: Mutex<Vec<(String, Descriptor)>>,
}

// === impl Judge ===

impl Judge {
    fn who(judgement: Result<Judgement>) -> Arc<Self> {
        Arc::new(Self {
            judgement,
            asked: Mutex::default(),
        })
    }

    fn says(accepted: bool, reason: &str) -> Arc<Self> {
        Self::who(Ok(Judgement {
            accepted,
            reason: reason.to_owned(),
        }))
    }

    fn asked(&self) -> Vec<(String, Descriptor)> {
        self.asked.lock().expect("unpoisoned").clone()
    }
}

#[async_trait]
impl ImageVerifier for Judge {
    async fn verify(&self, ctx: &Ctx, name: &str, target: Descriptor) -> Result<Judgement> {
        ctx.namespace()?;
        self.asked.lock().expect("unpoisoned").push((name.to_owned(), target));
        self.judgement.clone()
    }
}

#[tokio::test]
async fn an_image_is_pulled_once_every_verifier_has_accepted_it() {
    let image = TestImage::new(&here(), &["one"]);
    let (registry, source) = (RegistryServer::start(), having(&image).await);
    let name = format!("{}/a/app:v1", registry.address);
    source.push("app:v1", &name, resolver()).await.expect("pushed");

    let (first, second) = (Judge::says(true, "signed"), Judge::says(true, ""));
    let daemon = Daemon {
        verifiers: vec![("first", first.clone()), ("second", second.clone())],
        ..Daemon::new()
    };
    daemon.pull(&name).await.expect("pulled");
    let target = Descriptor {
        media_type: media_type::MANIFEST.to_owned(),
        digest: image.manifest_digest(),
        size: source.content.bytes(&image.manifest_digest()).expect("there").len() as u64,
        annotations: [].into(),
    };
    assert_eq!(first.asked(), [(name.clone(), target.clone())]);
    assert_eq!(second.asked(), [(name, target)]);
}

#[tokio::test]
async fn one_that_rejects_or_does_not_judge_leaves_nothing_of_the_pull() {
    let image = TestImage::new(&here(), &["one"]);
    let (registry, source) = (RegistryServer::start(), having(&image).await);
    let name = format!("{}/a/app:v1", registry.address);
    source.push("app:v1", &name, resolver()).await.expect("pushed");

    let rejects = || Judge::says(false, "nobody signed it");
    let broken = || Judge::who(Err(Error::deadline_exceeded("it took longer than 10s")));
    for (judge, code, said) in [
        (rejects(), Code::PermissionDenied, "image verifier odd blocked pull of"),
        (rejects(), Code::PermissionDenied, "for reason: nobody signed it"),
        (
            broken(),
            Code::DeadlineExceeded,
            "image verifier odd returned error: it took longer",
        ),
    ] {
        let after = Judge::says(true, "");
        let daemon = Daemon {
            verifiers: vec![("odd", judge), ("other", after.clone())],
            ..Daemon::new()
        };
        let error = daemon.pull(&name).await.expect_err("blocked");
        assert_eq!(error.code, code, "{error}");
        let digest = image.manifest_digest().to_string();
        assert!(
            error.message.contains(said) && error.message.contains(&digest),
            "{error}"
        );
        assert_eq!(after.asked(), []);
        assert_eq!(daemon.content.written(), 0);
        assert_eq!(daemon.images.names(), [] as [String; 0]);
        daemon.assert_tidy();
    }
}
