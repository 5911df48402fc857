//! The ELF note of a library: what the daemon reads *before* it opens the file, because constructors run at `dlopen`.
//!
//! A note of name `Orlop` and type [`TYPE`] whose descriptor is text, one `key=value` a line:
//!
//! ```text
//! abi=1
//! sdk=0.1.0
//! target=linux/x86_64
//! plugin=io.containerd.snapshotter.v1.acme
//! ```

/// The section it stands in.
pub const SECTION: &str = ".note.orlop";
/// The name of the note.
pub const NAME: &str = "Orlop";
/// The type of the note.
pub const TYPE: u32 = 0x4f52_4c50;
/// The target as the note says it: a library is opened by a daemon of the same.
pub const TARGET: &str = target();
/// The version of the SDK.
pub const SDK: &str = env!("CARGO_PKG_VERSION");

const fn target() -> &'static str {
    if cfg!(target_arch = "x86_64") {
        "linux/x86_64"
    } else if cfg!(target_arch = "aarch64") {
        "linux/aarch64"
    } else {
        "linux/other"
    }
}

/// How many bytes a note of these plugins takes.
pub const fn length(plugins: &[&str]) -> usize {
    let mut text = "abi=1\nsdk=\ntarget=\n".len() + SDK.len() + TARGET.len();
    let mut plugin = 0;
    while plugin < plugins.len() {
        text += "plugin=\n".len() + plugins[plugin].len();
        plugin += 1;
    }
    12 + 8 + text.next_multiple_of(4)
}

/// The note: header, name padded to 8 bytes, text padded to a multiple of 4 with line ends.
pub const fn build<const N: usize>(plugins: &[&str]) -> [u8; N] {
    let mut note = [b'\n'; N];
    let text = N - 20;
    let mut at = put(&mut note, 0, &6u32.to_ne_bytes());
    at = put(&mut note, at, &(text as u32).to_ne_bytes());
    at = put(&mut note, at, &TYPE.to_ne_bytes());
    at = put(&mut note, at, b"Orlop\0\0\0");
    // The version as text must stay one digit for `length` to be right.
    const { assert!(super::v1::VERSION == 1) };
    at = put(&mut note, at, b"abi=1\nsdk=");
    at = put(&mut note, at, SDK.as_bytes());
    at = put(&mut note, at, b"\ntarget=");
    at = put(&mut note, at, TARGET.as_bytes());
    at = put(&mut note, at, b"\n");
    let mut plugin = 0;
    while plugin < plugins.len() {
        at = put(&mut note, at, b"plugin=");
        at = put(&mut note, at, plugins[plugin].as_bytes());
        at = put(&mut note, at, b"\n");
        plugin += 1;
    }
    note
}

const fn put<const N: usize>(note: &mut [u8; N], at: usize, bytes: &[u8]) -> usize {
    let mut index = 0;
    while index < bytes.len() {
        note[at + index] = bytes[index];
        index += 1;
    }
    at + bytes.len()
}

/// What a note says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Note {
    /// The channel versions the library offers.
    pub abi: Vec<u32>,
    /// The SDK it was built with.
    pub sdk: String,
    /// The target it was built for.
    pub target: String,
    /// The plugins it will describe, if its author named them.
    pub plugins: Vec<String>,
}

// === impl Note ===

impl Note {
    /// Reads a descriptor. Unknown keys are for later daemons.
    pub fn parse(descriptor: &[u8]) -> Self {
        let mut note = Self::default();
        for line in String::from_utf8_lossy(descriptor).lines() {
            match line.split_once('=') {
                Some(("abi", version)) => note.abi.extend(version.parse::<u32>().ok()),
                Some(("sdk", version)) => version.clone_into(&mut note.sdk),
                Some(("target", target)) => target.clone_into(&mut note.target),
                Some(("plugin", uri)) => note.plugins.push(uri.to_owned()),
                _ => {}
            }
        }
        note
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_reads_back() {
        const PLUGINS: &[&str] = &["io.containerd.snapshotter.v1.a", "io.containerd.gc.v1.bc"];
        const BYTES: [u8; length(PLUGINS)] = build(PLUGINS);
        assert_eq!(BYTES.len() % 4, 0);
        assert_eq!(
            u32::from_ne_bytes(BYTES[4..8].try_into().expect("four bytes")) as usize,
            BYTES.len() - 20
        );
        let note = Note::parse(&BYTES[20..]);
        assert_eq!(note.abi, [1]);
        assert_eq!((note.sdk.as_str(), note.target.as_str()), (SDK, TARGET));
        assert_eq!(note.plugins, PLUGINS);
    }
}
