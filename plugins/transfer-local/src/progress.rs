//! What a client is told while a transfer runs (`containerd.types.transfer.Progress`). The events and their names are containerd's.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use containerd_client::to_any;
use containerd_client::types::{self, transfer};
use orlop_plugin::contract::{Ctx, Digest};
use orlop_plugin::{Host, Result};
use tokio::time::sleep;

use crate::oci::{Descriptor, reference_key};
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
        self.image("saved", name, target);
    }

    /// Tells of an event of the image `name`.
    pub fn image(&self, event: &str, name: &str, target: &Descriptor) {
        self.tell(transfer::Progress {
            event: event.to_owned(),
            name: name.to_owned(),
            desc: Some(described(target)),
            ..Default::default()
        });
    }

    /// Tells what has changed of `jobs` since it was last told; whether the client has taken it all.
    pub fn jobs(&self, jobs: &Jobs) -> bool {
        let mut state = jobs.state.lock().unwrap_or_else(PoisonError::into_inner);
        state
            .values_mut()
            .filter(|job| job.told != Some((job.phase, job.offset)))
            .all(|job| {
                let taken = self.tell(job.message(jobs.verb));
                if taken {
                    job.told = Some((job.phase, job.offset));
                }
                taken
            })
    }

    /// Tells the rest of `jobs` to a client that reads, but waits for it no longer than a second.
    pub async fn finish_jobs(&self, jobs: &Jobs) {
        for _ in 0..100 {
            if self.jobs(jobs) {
                return;
            }
            sleep(Duration::from_millis(10)).await;
        }
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
    fn tell(&self, progress: transfer::Progress) -> bool {
        self.0.as_ref().is_none_or(|stream| {
            let stream = stream.lock().unwrap_or_else(PoisonError::into_inner);
            stream.try_send(to_any(&progress))
        })
    }
}

/// How often what moves is told of.
pub const TICK: Duration = Duration::from_millis(300);

/// What of a blob's transfer is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Waiting,
    Moving,
    Complete,
    Exists,
}

struct Job {
    name: String,
    parents: Vec<String>,
    descriptor: Descriptor,
    phase: Phase,
    offset: u64,
    told: Option<(Phase, u64)>,
}

/// The blobs of a transfer, and how far each is.
pub struct Jobs {
    verb: &'static str,
    root: String,
    state: Mutex<BTreeMap<Digest, Job>>,
}

// === impl Jobs ===

impl Jobs {
    /// For the image `root`, whose blobs are `downloading` or `uploading`.
    pub fn new(verb: &'static str, root: &str) -> Self {
        Self {
            verb,
            root: root.to_owned(),
            state: Mutex::default(),
        }
    }

    /// There is a blob, below `parent` or at the root.
    pub fn add(&self, descriptor: &Descriptor, parent: Option<&Descriptor>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.entry(descriptor.digest.clone()).or_insert_with(|| Job {
            name: reference_key(descriptor),
            parents: vec![parent.map_or_else(|| self.root.clone(), reference_key)],
            descriptor: descriptor.clone(),
            phase: Phase::Waiting,
            offset: 0,
            told: None,
        });
    }

    /// So many bytes of it were moved.
    pub fn moved(&self, digest: &Digest, offset: u64) {
        self.change(digest, |job| {
            job.phase = Phase::Moving;
            job.offset = offset;
        });
    }

    /// So many bytes more.
    pub fn moved_by(&self, digest: &Digest, length: u64) {
        self.change(digest, |job| {
            job.phase = Phase::Moving;
            // What is sent anew after it broke off is not more than there is.
            job.offset = (job.offset + length).min(job.descriptor.size);
        });
    }

    /// It is there, as it was before or is now.
    pub fn complete(&self, digest: &Digest, before: bool) {
        self.change(digest, |job| {
            job.phase = if before { Phase::Exists } else { Phase::Complete };
            job.offset = job.descriptor.size;
        });
    }

    fn change(&self, digest: &Digest, change: impl FnOnce(&mut Job)) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(job) = state.get_mut(digest) {
            change(job);
        }
    }
}

impl Job {
    fn message(&self, verb: &str) -> transfer::Progress {
        let event = match self.phase {
            Phase::Waiting => "waiting",
            Phase::Moving => verb,
            Phase::Complete => "complete",
            Phase::Exists => "already exists",
        };
        transfer::Progress {
            event: event.to_owned(),
            name: self.name.clone(),
            parents: self.parents.clone(),
            progress: i64::try_from(self.offset).unwrap_or(i64::MAX),
            total: i64::try_from(self.descriptor.size).unwrap_or(i64::MAX),
            desc: Some(described(&self.descriptor)),
        }
    }
}

fn described(descriptor: &Descriptor) -> types::Descriptor {
    types::Descriptor {
        media_type: descriptor.media_type.clone(),
        digest: descriptor.digest.to_string(),
        size: i64::try_from(descriptor.size).unwrap_or(i64::MAX),
        annotations: descriptor.annotations.clone().into_iter().collect(),
    }
}
