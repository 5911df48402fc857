//! Descriptors that the runtime waits for: reading and writing as soon as the kernel is ready.

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::unix::AsyncFd;

/// Has the runtime wait for a descriptor, which must not block.
#[expect(
    unsafe_code,
    reason = "the safe function is deprecated: it takes descriptors that one does not own"
)]
pub fn register(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is one and the same open descriptor for as long as it lives, and the `AsyncFd` owns it.
    Ok(unsafe { AsyncFd::register(fd) }?)
}

/// Writes what fits.
pub async fn write(fd: &AsyncFd<OwnedFd>, bytes: &[u8]) -> io::Result<usize> {
    loop {
        let mut ready = fd.writable().await?;
        if let Ok(written) = ready.try_io(|fd| Ok(rustix::io::write(fd.get_ref(), bytes)?)) {
            return written;
        }
    }
}

/// Reads what is there, nothing at the end. The buffer lives only while there is something.
pub async fn read(fd: &AsyncFd<OwnedFd>) -> io::Result<Vec<u8>> {
    loop {
        let mut ready = fd.readable().await?;
        let mut buffer = [0; 8192];
        if let Ok(read) = ready.try_io(|fd| Ok(rustix::io::read(fd.get_ref(), &mut buffer)?)) {
            return read.map(|length| buffer[..length].to_vec());
        }
    }
}
