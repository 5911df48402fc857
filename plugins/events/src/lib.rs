//! The events exchange: what happened goes to everyone who asked, and waits for nobody.
//!
//! [`exchange`] has the subscribers and their bounds, [`fields`] what filters can see inside an event. Specified by containerd's
//! `events/exchange`.

mod exchange;
mod fields;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use orlop_plugin::{Contracts, Instance, Registration, kind};

pub use exchange::Exchange;

/// The registration of `io.containerd.event.v1.exchange`.
pub fn registrations() -> Vec<Registration> {
    vec![Registration::new(kind::EVENT, "exchange", |_| async {
        let exchange = Arc::new(Exchange::default());
        let ended = exchange.clone();
        Ok(Instance::new()
            .with_contracts(Contracts::default().with_events(exchange))
            .on_shutdown(move || async move { ended.end() }))
    })]
}
