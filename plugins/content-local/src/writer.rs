//! The writer of an ingest, as its async caller sees it: what blocks goes to the blocking pool, and little goes there at all.
//!
//! Bytes for an ingest in memory are taken at once. Others are gathered to [`BATCH`] and written and hashed by one job at a time, while
//! the caller fetches what comes next; asking for the digest, or committing, waits for the job. Dropped, a writer hands over what is
//! left, so that the ingest is on disk when its reference is free again.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use orlop_plugin::contract::{CommitOptions, Digest, IngestStatus, IngestWriter, async_trait};
use orlop_plugin::{Error, Result, blocking};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use crate::ingest::{IN_MEMORY, Ingest};
use crate::refs::Active;

/// When an ingest in memory that was not committed gets its files.
pub(crate) const SETTLE: Duration = Duration::from_millis(250);
/// What one job writes at least, while more is coming: going to the pool costs as much as hashing some KiB.
const BATCH: usize = 128 << 10;
/// The most pieces one job writes, so that a caller's tiny pieces do not pile up.
const PIECES: usize = 256;

/// Writes one ingest.
pub(crate) struct Writer {
    ingest: Arc<Mutex<Ingest>>,
    active: Arc<Active>,
    /// Bytes taken, those waiting or under way among them.
    offset: u64,
    waiting: Vec<Bytes>,
    waiting_bytes: usize,
    job: Option<JoinHandle<Result<()>>>,
    committed: bool,
}

// === impl Writer ===

impl Writer {
    pub(crate) fn new(ingest: Ingest, active: Arc<Active>) -> Self {
        let offset = ingest.offset();
        let young = ingest.in_memory();
        let ingest = Arc::new(Mutex::new(ingest));
        if young {
            let ingest = Arc::downgrade(&ingest);
            tokio::spawn(async move {
                tokio::time::sleep(SETTLE).await;
                if let Some(ingest) = ingest.upgrade() {
                    spill(ingest).await;
                }
            });
        }
        Self {
            ingest,
            active,
            offset,
            waiting: Vec::new(),
            waiting_bytes: 0,
            job: None,
            committed: false,
        }
    }

    fn check(&self) -> Result<()> {
        if self.committed {
            return Err(Error::failed_precondition(
                "the writer was committed: open a new one to write more",
            ));
        }
        if *self.active.aborted() {
            return Err(self.active.gone());
        }
        Ok(())
    }

    /// Waits for the job under way. After one that failed, the writer is where the ingest is.
    async fn join(&mut self) -> Result<()> {
        let Some(job) = &mut self.job else {
            return Ok(());
        };
        let done = match job.await {
            Ok(done) => done,
            Err(error) => Err(Error::internal(format!("writing the ingest did not end: {error}"))),
        };
        self.job = None;
        if done.is_err() {
            self.forget_waiting();
            self.offset = lock(&self.ingest).offset();
            self.active.advance(self.offset);
        }
        done
    }

    fn take_waiting(&mut self) -> Vec<Bytes> {
        self.waiting_bytes = 0;
        std::mem::take(&mut self.waiting)
    }

    fn forget_waiting(&mut self) {
        self.take_waiting();
    }

    fn dispatch(&mut self) {
        let pieces = self.take_waiting();
        let ingest = self.ingest.clone();
        self.job = Some(tokio::task::spawn_blocking(move || lock(&ingest).append(&pieces)));
    }

    /// Everything taken is written and hashed.
    async fn flush(&mut self) -> Result<()> {
        self.join().await?;
        if !self.waiting.is_empty() {
            self.dispatch();
            self.join().await?;
        }
        Ok(())
    }
}

#[async_trait]
impl IngestWriter for Writer {
    async fn status(&mut self) -> Result<IngestStatus> {
        Ok(self.active.status())
    }

    async fn digest(&mut self) -> Result<Digest> {
        self.flush().await?;
        if let Ok(ingest) = self.ingest.try_lock() {
            return Ok(ingest.digest());
        }
        let ingest = self.ingest.clone();
        blocking(move || Ok(lock(&ingest).digest())).await
    }

    async fn write(&mut self, data: Bytes) -> Result<()> {
        self.check()?;
        if data.is_empty() {
            return Ok(());
        }
        let taken = self.offset + data.len() as u64;
        let idle = self.job.is_none() && self.waiting.is_empty();
        // Whoever has the lock is giving the ingest its files: no need to wait for that here.
        let in_memory = idle
            && taken <= IN_MEMORY
            && self
                .ingest
                .try_lock()
                .is_ok_and(|mut ingest| ingest.append_in_memory(&data));
        if !in_memory {
            self.waiting_bytes += data.len();
            self.waiting.push(data);
        }
        self.offset = taken;
        self.active.advance(taken);
        if self.waiting_bytes >= BATCH || self.waiting.len() >= PIECES {
            self.join().await?;
            self.dispatch();
        }
        Ok(())
    }

    async fn truncate(&mut self, size: u64) -> Result<()> {
        self.check()?;
        if size > self.offset {
            return Err(Error::out_of_range(format!(
                "ingest {:?} has {} bytes and cannot be truncated to {size}",
                self.active.status().reference,
                self.offset
            )));
        }
        self.flush().await?;
        if size < self.offset {
            let ingest = self.ingest.clone();
            blocking(move || lock(&ingest).truncate(size)).await?;
            self.offset = size;
            self.active.advance(size);
        }
        Ok(())
    }

    async fn commit(&mut self, options: CommitOptions) -> Result<Digest> {
        self.check()?;
        self.join().await?;
        let pieces = self.take_waiting();
        let ingest = self.ingest.clone();
        self.committed = true;
        blocking(move || {
            let mut ingest = lock(&ingest);
            ingest.append(&pieces)?;
            ingest.commit(&options)
        })
        .await
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let ingest = self.ingest.clone();
        let pieces = self.take_waiting();
        let job = self.job.take();
        if self.committed {
            return;
        }
        let Ok(runtime) = Handle::try_current() else {
            // The runtime has ended, and with it every job.
            finish(&ingest, &pieces);
            return;
        };
        if job.is_none() && pieces.is_empty() && self.ingest.try_lock().is_ok_and(|ingest| !ingest.in_memory()) {
            return;
        }
        runtime.spawn(async move {
            if let Some(job) = job {
                // Its failure leaves the ingest shorter; what waited would not follow it.
                if !matches!(job.await, Ok(Ok(()))) {
                    return;
                }
            }
            // Nobody is left to be told.
            let _ = tokio::task::spawn_blocking(move || finish(&ingest, &pieces)).await;
        });
    }
}

fn finish(ingest: &Mutex<Ingest>, pieces: &[Bytes]) {
    let mut ingest = lock(ingest);
    if let Err(error) = ingest.append(pieces).and_then(|()| ingest.spill()) {
        tracing::debug!(%error, "an ingest was not kept whole");
    }
}

async fn spill(ingest: Arc<Mutex<Ingest>>) {
    let spilled = blocking(move || lock(&ingest).spill()).await;
    if let Err(error) = spilled {
        tracing::debug!(%error, "an ingest stays in memory");
    }
}

fn lock(ingest: &Mutex<Ingest>) -> MutexGuard<'_, Ingest> {
    ingest.lock().unwrap_or_else(PoisonError::into_inner)
}
