//! Polling on somebody else's thread: the owner's runtime is entered for the time of each poll and of the drop.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::task::Poll;

use tokio::runtime::Handle;

use crate::panic_message;

/// A value that is used, and dropped, with `runtime` entered and its panics caught.
///
/// tokio keeps its context in thread-locals of the library it is linked into: without this, a plugin's timers and sockets would not
/// find their driver on the daemon's threads.
pub(super) struct Entered<T> {
    runtime: Handle,
    value: Option<T>,
}

// === impl Entered ===

impl<T> Entered<T> {
    pub(super) fn new(runtime: Handle, value: T) -> Self {
        Self {
            runtime,
            value: Some(value),
        }
    }

    /// Polls the value. A panic drops it and is returned as its message; whatever is polled afterwards says so again.
    pub(super) fn poll<R>(&mut self, poll: impl FnOnce(&mut T) -> Poll<R>) -> Result<Poll<R>, String> {
        let _runtime = self.runtime.enter();
        let Some(value) = &mut self.value else {
            return Err("it had panicked before".to_owned());
        };
        catch_unwind(AssertUnwindSafe(|| poll(value))).map_err(|panic| {
            let message = panic_message(&*panic);
            // What panicked may panic again when dropped: it is leaked then, and the message kept.
            let value = self.value.take();
            let _ = catch_unwind(AssertUnwindSafe(|| drop(value)));
            let _ = catch_unwind(AssertUnwindSafe(|| drop(panic)));
            message
        })
    }
}

impl<T> Drop for Entered<T> {
    fn drop(&mut self) {
        if let Some(value) = self.value.take() {
            let _runtime = self.runtime.enter();
            // A panic while dropping must not cross the boundary; there is nobody left to tell.
            let _ = catch_unwind(AssertUnwindSafe(|| drop(value)));
        }
    }
}
