//! When to collect: a state machine of counters and times, fed by whoever has the clock.
//!
//! ```text
//!  startup_delay ─▶ ┌───────────┐ due, and there is a reason ─▶ collect ─▶ interval = what keeps pauses below
//!                   │  waiting  │ due without a reason ─▶ idle, until there is one       pause_threshold ─┐
//!                   └───────────┘ ◀──────────────────────────────────────────────────────────────────────┘
//!  trigger, or deletion_threshold reached ─▶ due after schedule_delay at the latest
//!  a failed collection ─▶ due after the same wait and a second
//! ```

use std::time::Duration;

use orlop_plugin::contract::Mutation;
use tokio::time::Instant;

use crate::Policy;

/// The wait between looks while no collection has told how long one takes.
const FIRST_INTERVAL: Duration = Duration::from_secs(1);

/// What is known, and when the next collection is due.
#[derive(Clone, Debug)]
pub struct Schedule {
    policy: Policy,
    next: Option<Instant>,
    /// The wait that led to `next`.
    planned: Duration,
    interval: Duration,
    collected_before: bool,
    time_in_collections: Duration,
    collections: u32,
    triggered: bool,
    deletions: u64,
    mutations: u64,
    /// The last interval ended without a reason to collect.
    idle: bool,
}

// === impl Schedule ===

impl Schedule {
    /// The first collection is due after `startup_delay`, or when something asks for one if that is zero.
    pub fn new(policy: Policy, now: Instant) -> Self {
        let mut schedule = Self {
            policy,
            next: None,
            planned: Duration::ZERO,
            interval: FIRST_INTERVAL,
            collected_before: false,
            time_in_collections: Duration::ZERO,
            collections: 0,
            triggered: false,
            deletions: 0,
            mutations: 0,
            idle: false,
        };
        let startup = policy.startup_delay.to_std();
        if !startup.is_zero() {
            schedule.plan(now, startup);
        }
        schedule
    }

    /// When to call [`Schedule::due`].
    pub fn next(&self) -> Option<Instant> {
        self.next
    }

    /// Somebody waits for a collection.
    pub fn trigger(&mut self, now: Instant) {
        self.triggered = true;
        self.reconsider(now);
    }

    /// The store changed.
    pub fn mutated(&mut self, now: Instant, mutation: Mutation) {
        self.mutations = self.mutations.saturating_add(mutation.mutations);
        self.deletions = self.deletions.saturating_add(mutation.deletions);
        self.reconsider(now);
    }

    /// The time has come: whether to collect. Without a reason to, nothing is planned until there is one: containerd looks again and again,
    /// and an idle daemon should sleep.
    pub fn due(&mut self) -> bool {
        let enough_mutations = self.policy.mutation_threshold > 0 && self.mutations >= self.policy.mutation_threshold;
        let reason = self.triggered || !self.collected_before || self.deletions > 0 || enough_mutations;
        self.idle = !reason;
        if self.idle {
            self.next = None;
        }
        reason
    }

    /// A collection is done and took `elapsed`.
    pub fn collected(&mut self, now: Instant, elapsed: Duration) {
        self.collected_before = true;
        self.collections = self.collections.saturating_add(1);
        self.time_in_collections += elapsed;
        (self.triggered, self.deletions, self.mutations) = (false, 0, 0);
        if self.policy.pause_threshold > 0.0 {
            // So long a pause between collections that they take the allowed share of all time.
            let average = self.time_in_collections / self.collections;
            self.interval = average.mul_f64(1.0 / self.policy.pause_threshold - 1.0);
        }
        self.plan(now, self.interval);
    }

    /// A collection failed: what asked for it still stands.
    pub fn failed(&mut self, now: Instant) {
        self.collected_before = true;
        self.plan(now, self.planned + Duration::from_secs(1));
    }

    fn plan(&mut self, now: Instant, wait: Duration) {
        self.planned = wait;
        self.next = Some(now + wait);
    }

    fn reconsider(&mut self, now: Instant) {
        let Policy {
            deletion_threshold,
            mutation_threshold,
            ..
        } = self.policy;
        let deletions_reached =
            deletion_threshold > 0 && self.deletions >= u64::try_from(deletion_threshold).unwrap_or(u64::MAX);
        let nothing_planned_but_reason = self.next.is_none()
            && ((deletion_threshold == 0 || self.idle) && self.deletions > 0
                || mutation_threshold > 0 && self.mutations >= mutation_threshold);
        if self.triggered || deletions_reached || nothing_planned_but_reason {
            let delay = self.policy.schedule_delay.to_std();
            if self.next.is_none_or(|next| next > now + delay) {
                self.plan(now, delay);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Config;

    const MS: Duration = Duration::from_millis(1);

    fn schedule(change: impl FnOnce(&mut Config)) -> (Schedule, Instant) {
        let mut config = Config::default();
        change(&mut config);
        let now = Instant::now();
        (Schedule::new(config.policy().expect("valid"), now), now)
    }

    fn mutation(mutations: u64, deletions: u64) -> Mutation {
        Mutation { mutations, deletions }
    }

    #[test]
    fn the_first_collection_follows_the_start() {
        let (mut schedule, now) = schedule(|_| {});
        assert_eq!(schedule.next(), Some(now + 100 * MS));
        assert!(schedule.due(), "the first always runs: it tells how long one takes");
    }

    #[test]
    fn without_a_startup_delay_something_must_ask() {
        let (mut schedule, now) = schedule(|config| config.startup_delay = "0s".into());
        assert_eq!(schedule.next(), None);
        schedule.mutated(now, mutation(99, 0));
        assert_eq!(schedule.next(), None);
        schedule.mutated(now, mutation(1, 0));
        assert_eq!(schedule.next(), Some(now), "the mutation threshold");

        let (mut schedule, now) = super::tests::schedule(|config| config.startup_delay = "0s".into());
        schedule.mutated(now, mutation(1, 1));
        assert_eq!(schedule.next(), Some(now), "a deletion");
    }

    #[test]
    fn pauses_stay_below_their_share_of_time() {
        let (mut schedule, now) = schedule(|_| {});
        schedule.collected(now, 10 * MS);
        assert_eq!(schedule.next(), Some(now + 490 * MS), "10 ms of 500 are 2 %");
        schedule.collected(now, 30 * MS);
        assert_eq!(schedule.next(), Some(now + 980 * MS), "the average counts");
    }

    #[test]
    fn without_a_share_a_second_lies_between() {
        let (mut schedule, now) = schedule(|config| config.pause_threshold = 0.0);
        schedule.collected(now, 10 * MS);
        assert_eq!(schedule.next(), Some(now + 1000 * MS));
    }

    #[test]
    fn without_a_reason_it_sleeps_until_there_is_one() {
        let (mut schedule, now) = schedule(|_| {});
        schedule.collected(now, 10 * MS);
        let later = now + 490 * MS;
        assert!(!schedule.due());
        assert_eq!(schedule.next(), None);
        schedule.mutated(later, mutation(99, 0));
        assert_eq!(schedule.next(), None);
        schedule.mutated(later, mutation(1, 0));
        assert_eq!(schedule.next(), Some(later), "the mutation threshold is a reason");
        assert!(schedule.due());
        schedule.collected(later, 10 * MS);
        schedule.mutated(later, mutation(1, 1));
        assert_eq!(
            schedule.next(),
            Some(later + 490 * MS),
            "a deletion waits for the interval"
        );
        assert!(schedule.due());
        schedule.collected(later, 10 * MS);
        assert!(!schedule.due());
        schedule.mutated(later + 500 * MS, mutation(1, 1));
        assert_eq!(schedule.next(), Some(later + 500 * MS), "and not, once that is over");
    }

    #[test]
    fn a_trigger_comes_first_but_never_later_than_planned() {
        let (mut schedule, now) = schedule(|config| config.schedule_delay = "200ms".into());
        schedule.trigger(now);
        assert_eq!(
            schedule.next(),
            Some(now + 100 * MS),
            "the startup collection is earlier"
        );
        schedule.collected(now, 100 * MS);
        schedule.trigger(now);
        assert_eq!(schedule.next(), Some(now + 200 * MS));
        schedule.trigger(now + 50 * MS);
        assert_eq!(
            schedule.next(),
            Some(now + 200 * MS),
            "a second one does not push it back"
        );
    }

    #[test]
    fn the_deletion_threshold_schedules_at_once() {
        let (mut schedule, now) = schedule(|config| config.deletion_threshold = 3);
        schedule.collected(now, 100 * MS);
        schedule.mutated(now, mutation(2, 2));
        assert!(schedule.next() > Some(now));
        schedule.mutated(now, mutation(1, 1));
        assert_eq!(schedule.next(), Some(now));
    }

    #[test]
    fn a_failure_waits_longer_and_keeps_its_reason() {
        let (mut schedule, now) = schedule(|_| {});
        schedule.trigger(now);
        assert!(schedule.due());
        schedule.failed(now);
        assert_eq!(schedule.next(), Some(now + 1000 * MS));
        schedule.failed(now);
        assert_eq!(schedule.next(), Some(now + 2000 * MS));
        assert!(schedule.due(), "the trigger still stands");
    }
}
