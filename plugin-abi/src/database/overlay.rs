//! A file that is only read: what is written to it stays in memory.

use std::collections::BTreeMap;
use std::io::{Error, ErrorKind};
use std::ops::Bound;
use std::sync::{Mutex, PoisonError};

use redb::backends::FileBackend;
use redb::{BackendError, StorageBackend};

const BLOCK: u64 = 4096;

/// See the module.
#[derive(Debug)]
pub(super) struct Overlay {
    file: FileBackend,
    written: Mutex<Written>,
}

#[derive(Debug)]
struct Written {
    length: u64,
    /// How much of the file is still to be seen: what was cut off comes back as zeros.
    seen: u64,
    blocks: BTreeMap<u64, Box<[u8]>>,
}

// === impl Overlay ===

impl Overlay {
    pub(super) fn over(file: FileBackend) -> Result<Self, redb::DatabaseError> {
        let length = file.len().map_err(redb::StorageError::from)?;
        Ok(Self {
            file,
            written: Mutex::new(Written {
                length,
                seen: length,
                blocks: BTreeMap::new(),
            }),
        })
    }

    fn written(&self) -> std::sync::MutexGuard<'_, Written> {
        // Plain bytes, which every holder leaves whole.
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The bytes of the file from `offset` on, zeros where there are none.
    fn original(&self, written: &Written, offset: u64, out: &mut [u8]) -> Result<(), Error> {
        let there = written.seen.saturating_sub(offset).min(out.len() as u64) as usize;
        let (file, zeros) = out.split_at_mut(there);
        zeros.fill(0);
        if file.is_empty() {
            Ok(())
        } else {
            self.file.read(offset, file)
        }
    }
}

/// The blocks that `length` bytes from `offset` on touch: number, offset in the block, and which of the bytes.
fn blocks(offset: u64, length: usize) -> impl Iterator<Item = (u64, usize, std::ops::Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        if done == length {
            return None;
        }
        let at = offset + done as u64;
        let within = (at % BLOCK) as usize;
        let end = length.min(done + BLOCK as usize - within);
        let range = done..end;
        done = end;
        Some((at / BLOCK, within, range))
    })
}

/// The end of `length` bytes at `offset`, if the file goes as far.
fn within(written: &Written, offset: u64, length: usize) -> Result<(), Error> {
    match offset.checked_add(length as u64) {
        Some(end) if end <= written.length => Ok(()),
        _ => Err(ErrorKind::UnexpectedEof.into()),
    }
}

impl StorageBackend for Overlay {
    fn len(&self) -> Result<u64, Error> {
        Ok(self.written().length)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), Error> {
        let written = self.written();
        within(&written, offset, out.len())?;
        if written.blocks.is_empty() {
            return self.original(&written, offset, out);
        }
        for (block, from, range) in blocks(offset, out.len()) {
            let part = &mut out[range.clone()];
            match written.blocks.get(&block) {
                Some(bytes) => part.copy_from_slice(&bytes[from..from + part.len()]),
                None => self.original(&written, offset + range.start as u64, part)?,
            }
        }
        Ok(())
    }

    fn set_len(&self, length: u64) -> Result<(), Error> {
        let mut written = self.written();
        if length < written.length {
            written.seen = written.seen.min(length);
            let cut = written.blocks.split_off(&length.div_ceil(BLOCK));
            drop(cut);
            if let Some(last) = written.blocks.get_mut(&(length / BLOCK)) {
                last[(length % BLOCK) as usize..].fill(0);
            }
        }
        written.length = length;
        Ok(())
    }

    fn sync_data(&self) -> Result<(), Error> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), Error> {
        let mut written = self.written();
        within(&written, offset, data.len())?;
        for (block, from, range) in blocks(offset, data.len()) {
            if !written.blocks.contains_key(&block) {
                let mut bytes = vec![0; BLOCK as usize].into_boxed_slice();
                self.original(&written, block * BLOCK, &mut bytes)?;
                written.blocks.insert(block, bytes);
            }
            if let Some(bytes) = written.blocks.get_mut(&block) {
                bytes[from..from + range.len()].copy_from_slice(&data[range]);
            }
        }
        Ok(())
    }

    fn close(&self) -> Result<(), Error> {
        self.file.close()
    }

    // The locks are the file's own: nobody else may have it open meanwhile.

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.try_lock_range(start, end)
    }

    fn try_lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.query_lock_range(start, end)
    }
}
