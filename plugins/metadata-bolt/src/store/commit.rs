//! Group commit: the queue, and how a batch becomes one transaction.

use std::time::Duration;

use orlop_plugin::{Error, Result};

use super::draft::{Changes, Draft};
use super::{Inner, OBJECTS, Totals, begin, current, failed, lock};

/// Tells an operation's caller whether its batch was committed.
pub(super) type Acknowledge = Box<dyn FnOnce(Result<()>) + Send>;

/// Runs an operation (or tells it why it cannot run); says whether it succeeded, and how to tell its caller.
type Run = Box<dyn FnOnce(Result<&mut Draft<'_>>) -> (bool, Acknowledge) + Send>;

/// An operation that waits for its commit.
pub(super) struct Job {
    /// Whether it counts as a mutation.
    pub(super) counts: bool,
    pub(super) run: Run,
}

/// The operations that wait, and whether somebody leads.
#[derive(Default)]
pub(super) struct Queue {
    waiting: Vec<Job>,
    led: bool,
    closed: bool,
}

// === impl Queue ===

impl Queue {
    pub(super) fn closed(&self) -> bool {
        self.closed
    }
}

// === impl Inner ===

impl Inner {
    /// Queues an operation; true when the caller must see to a leader. `Unavailable` once the store is closed.
    pub(super) fn enqueue(&self, job: Job) -> Result<bool> {
        let mut queue = lock(&self.queue);
        if queue.closed {
            return Err(Error::unavailable("the metadata store is shutting down"));
        }
        queue.waiting.push(job);
        if queue.led {
            self.arrived.notify_one();
            return Ok(false);
        }
        queue.led = true;
        Ok(true)
    }

    /// Refuses operations from now on.
    pub(super) fn close(&self) {
        lock(&self.queue).closed = true;
    }

    /// Everything that waits, or `None` when nothing does and the lead is given up.
    ///
    /// Clients that wrote together tend to write again together: after a shared commit the leader waits up to `patience` for as many
    /// as the last time, instead of spending a commit of its own on the first that is back.
    pub(super) fn next_batch(&self, recent: usize, patience: Duration) -> Option<Vec<Job>> {
        let mut queue = lock(&self.queue);
        if recent > 1 {
            queue = self
                .arrived
                .wait_timeout_while(queue, patience, |queue| queue.waiting.len() < recent)
                .unwrap_or_else(std::sync::PoisonError::into_inner)
                .0;
        }
        if queue.waiting.is_empty() {
            queue.led = false;
            return None;
        }
        Some(std::mem::take(&mut queue.waiting))
    }

    /// Commits a batch and tells every caller.
    pub(super) fn run(&self, batch: Vec<Job>) {
        let mut acknowledge = Vec::with_capacity(batch.len());
        let mut totals = Totals::default();
        let committed = self.commit(batch, &mut acknowledge, &mut totals);
        if committed.is_ok() && totals != Totals::default() {
            self.totals.send_modify(|sum| {
                sum.mutations += totals.mutations;
                sum.deletions += totals.deletions;
            });
        }
        for tell in acknowledge {
            tell(committed.clone());
        }
    }

    fn commit(&self, batch: Vec<Job>, acknowledge: &mut Vec<Acknowledge>, totals: &mut Totals) -> Result<()> {
        let mut jobs = batch.into_iter();
        let outcome = self.apply(&mut jobs, acknowledge, totals);
        if let Err(error) = &outcome {
            acknowledge.extend(jobs.map(|job| (job.run)(Err(error.clone())).1));
        }
        outcome
    }

    fn apply(
        &self,
        jobs: &mut std::vec::IntoIter<Job>,
        acknowledge: &mut Vec<Acknowledge>,
        totals: &mut Totals,
    ) -> Result<()> {
        let transaction = begin(self.database()?)?;
        let mut changed = false;
        {
            let mut table = transaction
                .open_table(OBJECTS)
                .map_err(|e| failed("open the metadata", e))?;
            let mut journal = lock(&self.journal);
            for job in jobs {
                let mut draft = Draft::new(&table, &mut journal);
                let (succeeded, tell) = (job.run)(Ok(&mut draft));
                let Changes { records, garbage } = draft.into_changes();
                acknowledge.push(tell);
                if !succeeded || records.is_empty() {
                    continue;
                }
                changed = true;
                if job.counts {
                    totals.mutations += 1;
                    totals.deletions += u64::from(garbage);
                }
                for (key, value) in records {
                    match value {
                        Some(value) => {
                            table
                                .insert(key.as_bytes(), value.as_slice())
                                .map_err(|e| failed("write the metadata", e))?;
                            if let Some(journal) = journal.as_mut() {
                                journal.push(key);
                            }
                        }
                        None => {
                            table
                                .remove(key.as_bytes())
                                .map_err(|e| failed("write the metadata", e))?;
                        }
                    }
                }
            }
        }
        if !changed {
            return transaction.abort().map_err(|e| failed("end a metadata transaction", e));
        }
        transaction.commit().map_err(|e| failed("commit to the metadata", e))?;
        let view =
            std::sync::Arc::new(current(self.database()?).map_err(|error: Error| error.context("after a commit"))?);
        *self.view.write().unwrap_or_else(std::sync::PoisonError::into_inner) = view;
        self.copies.written(self.database()?);
        Ok(())
    }
}
