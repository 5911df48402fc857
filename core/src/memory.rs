//! The daemon's memory: little of it in the first place, and what an idle daemon does not need given back.
//!
//! Relocating, describing and initialising touch most of every library once, and an import touches much of the heap; the kernel keeps
//! those pages for as long as the daemon lives. The code's are clean pages of files: dropped, they are read from the page cache again when
//! a call needs them. The heap's free pages go back to the kernel.

// madvise(2), mallopt(3) and malloc_trim(3): a small, named place for `unsafe`.
#![allow(unsafe_code)]

use std::ops::Range;
use std::time::Duration;

/// How many heaps glibc may keep. By itself it makes eight a core, one for each thread that finds the others busy, and each keeps what it
/// once had: an import on two cores left 18 MiB behind that way, and 2 MiB in two heaps, at the same rates of calls.
#[cfg(target_env = "gnu")]
const ARENAS: libc::c_int = 2;

/// How long after start-up to trim first. Not at once, or the first caller would wait behind it; not later, because what only starting
/// touched was half of the peak of a pull that came soon (23 MiB of 48).
const ANSWERED: Duration = Duration::from_millis(100);
/// How long after that to trim once more: by then the threads that only starting needed have ended too.
const SETTLED: Duration = Duration::from_millis(2500);
/// A daemon without a call for this long is idle.
const IDLE: Duration = Duration::from_secs(10);

/// Keeps the allocator to few heaps, unless the environment says how many. Before the first thread is started.
pub fn few_heaps() {
    #[cfg(target_env = "gnu")]
    if std::env::var_os("MALLOC_ARENA_MAX").is_none() {
        // SAFETY: it sets a number of the allocator's; nobody allocates meanwhile, there is one thread.
        unsafe {
            libc::mallopt(libc::M_ARENA_MAX, ARENAS);
        }
    }
}

/// Trims when start-up is over, when it has settled, and again whenever the daemon has become idle since. `activity` grows with every call
/// that begins or ends.
pub async fn when_idle(activity: impl Fn() -> u64) {
    tokio::time::sleep(ANSWERED).await;
    trim().await;
    tokio::time::sleep(SETTLED).await;
    let mut trimmed_after = None;
    loop {
        let before = activity();
        if trimmed_after.is_some() {
            tokio::time::sleep(IDLE).await;
        }
        if activity() == before && trimmed_after != Some(before) {
            trim().await;
            trimmed_after = Some(before);
        }
    }
}

async fn trim() {
    let trimmed = tokio::task::spawn_blocking(|| {
        // SAFETY: it only gives free memory of the allocator back, under the allocator's own locks.
        #[cfg(target_env = "gnu")]
        unsafe {
            libc::malloc_trim(0);
        }
        let smaps = std::fs::read_to_string("/proc/self/smaps")?;
        for range in clean(&smaps) {
            drop_pages(range);
        }
        std::io::Result::Ok(())
    });
    if let Ok(Err(error)) = trimmed.await {
        tracing::debug!(%error, "cannot read /proc/self/smaps: pages that nothing needs stay mapped");
    }
}

/// The address ranges of `smaps` (proc_pid_smaps(5)) that are files' and that nobody can have written to: no permission to, and no page
/// of their own, in memory or in swap. Relocated read-only data has such pages, so it stays.
fn clean(smaps: &str) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut candidate: Option<Range<usize>> = None;
    for line in smaps.lines() {
        let mut words = line.split_ascii_whitespace();
        let (Some(first), Some(second)) = (words.next(), words.next()) else {
            continue;
        };
        if let Some((start, end)) = first.split_once('-') {
            found.extend(candidate.take());
            let inode = words.nth(2).unwrap_or("0");
            let addresses =
                usize::from_str_radix(start, 16).and_then(|start| Ok(start..usize::from_str_radix(end, 16)?));
            let read_only = second.starts_with("r-") && second.ends_with('p');
            candidate = addresses.ok().filter(|_| read_only && inode != "0");
        } else if matches!(first, "Anonymous:" | "Swap:") && second != "0" {
            candidate = None;
        }
    }
    found.extend(candidate);
    found
}

fn drop_pages(range: Range<usize>) {
    // SAFETY: `clean` gives ranges of read-only private file mappings without a private page, so what is dropped reads the same from the
    // file again. A failure (the mapping went away meanwhile) leaves everything as it is.
    unsafe {
        libc::madvise(range.start as *mut libc::c_void, range.len(), libc::MADV_DONTNEED);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_a_files_and_unwritten_is_dropped() {
        let smaps = "\
1000-2000 r-xp 00000000 fe:00 42 /usr/lib/a.so
Anonymous:             0 kB
Swap:                  0 kB
2000-3000 r--p 00001000 fe:00 42 /usr/lib/a.so
Anonymous:             4 kB
Swap:                  0 kB
3000-4000 r--p 00002000 fe:00 42 /usr/lib/a.so
Anonymous:             0 kB
Swap:                  4 kB
4000-5000 rw-p 00003000 fe:00 42 /usr/lib/a.so
Anonymous:             0 kB
5000-6000 r-xp 00000000 00:00 0 [vdso]
Anonymous:             0 kB
6000-7000 r--s 00000000 fe:00 43 /shared
Anonymous:             0 kB
7000-8000 r--p 00000000 fe:00 42 /usr/lib/a.so
Anonymous:             0 kB
VmFlags: rd mr mw me
";
        assert_eq!(clean(smaps), [0x1000..0x2000, 0x7000..0x8000]);
    }

    #[test]
    fn this_process_runs_on_without_its_pages() {
        let smaps = std::fs::read_to_string("/proc/self/smaps").expect("a Linux has it");
        let ranges = clean(&smaps);
        assert!(!ranges.is_empty());
        ranges.into_iter().for_each(drop_pages);
        assert_eq!(format!("{:?}", vec!["still", "here"]), r#"["still", "here"]"#);
    }
}
