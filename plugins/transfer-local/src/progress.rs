//! What a client is told while a transfer runs (`containerd.types.transfer.Progress`). The events and their names are containerd's.

use std::sync::{Mutex, PoisonError};

use containerd_client::to_any;
use containerd_client::types::{self, transfer};
use orlop_plugin::contract::Ctx;
use orlop_plugin::{Host, Result};

use crate::oci::Descriptor;
use crate::stream::Attached;

/// Where progress is told; nowhere when the client did not ask.
pub struct Progress(Option<Mutex<Attached>>);

// === impl Progress ===

impl Progress {
    /// Joins the stream `id`; an empty one means nowhere.
    pub async fn join(host: &Host, ctx: &Ctx, id: &str) -> Result<Self> {
        match id {
            "" => Ok(Self(None)),
            id => Attached::join(host, ctx, id)
                .await
                .map(|stream| Self(Some(Mutex::new(stream)))),
        }
    }

    /// Tells of an event of the whole transfer: `Importing`, `Completed export`.
    pub fn event(&self, event: &str) {
        self.tell(transfer::Progress {
            event: event.to_owned(),
            ..Default::default()
        });
    }

    /// Tells that the image `name` was stored.
    pub fn saved(&self, name: &str, target: &Descriptor) {
        self.tell(transfer::Progress {
            event: "saved".to_owned(),
            name: name.to_owned(),
            desc: Some(types::Descriptor {
                media_type: target.media_type.clone(),
                digest: target.digest.to_string(),
                size: i64::try_from(target.size).unwrap_or(i64::MAX),
                annotations: target.annotations.clone().into_iter().collect(),
            }),
            ..Default::default()
        });
    }

    /// Returns once everything told was taken, so that it comes before the answer of the transfer.
    pub async fn close(self) {
        if let Some(stream) = self.0 {
            stream
                .into_inner()
                .unwrap_or_else(PoisonError::into_inner)
                .close(None)
                .await;
        }
    }

    /// Progress is for people who watch: a client that does not read it must not hold up the transfer.
    fn tell(&self, progress: transfer::Progress) {
        if let Some(stream) = &self.0 {
            stream
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .try_send(to_any(&progress));
        }
    }
}
