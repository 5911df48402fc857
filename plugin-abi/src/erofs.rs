//! EROFS images made by `mkfs.erofs`, for the snapshotter that mounts them and the differ that makes them of layers.
//!
//! A snapshotter's active snapshot that wants an image is a directory with the file [`MARK`]; the image goes beside it, [`IMAGE`]. That, and
//! the options of `mkfs.erofs`, are containerd's (`internal/erofsutils`).
//!
//! Everything here blocks: call it in [`crate::blocking`].

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::contract::Digest;
use crate::{Error, Result, program};

/// The file in the directory of a snapshot that says: an image is wanted here.
pub const MARK: &str = ".erofslayer";
/// The image, in the same directory.
pub const IMAGE: &str = "layer.erofs";

const MKFS: &str = "mkfs.erofs";
/// Data is not packed into metadata: what is mapped lies in pages.
const PAGES: &str = "-Enoinline_data";
/// How much a program that failed may have to say.
const MAX_SAID: u64 = 16 << 10;
const BUFFER: usize = 256 << 10;

/// The program that makes images.
#[derive(Clone, Debug)]
pub struct Mkfs {
    path: PathBuf,
    /// Whether it reads tars (erofs-utils 1.7).
    tar: bool,
    /// The user's options, behind those it is always given.
    options: Vec<String>,
}

/// Puts `image` in place: made by `make` under another name, durable, and whole or not at all.
pub fn place(image: &Path, make: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let new = image.with_extension("new");
    let placed = make(&new).and_then(|()| {
        let durably = || -> io::Result<()> {
            File::open(&new)?.sync_all()?;
            std::fs::rename(&new, image)?;
            image.parent().map_or(Ok(()), |parent| File::open(parent)?.sync_all())
        };
        durably().map_err(|error| Error::io(format!("put {} in place", image.display()), &error))
    });
    if placed.is_err() {
        // It may not have come to be.
        let _ = std::fs::remove_file(&new);
    }
    placed
}

// === impl Mkfs ===

impl Mkfs {
    /// The program of this machine, if there is one.
    pub fn find() -> Option<Self> {
        let path = program::find(MKFS)?;
        // Where it prints its help, and what it ends with, differs between releases.
        let help = Command::new(&path).arg("--help").stdin(Stdio::null()).output().ok()?;
        let tar = [help.stdout, help.stderr]
            .iter()
            .any(|text| String::from_utf8_lossy(text).contains("--tar="));
        Some(Self {
            path,
            tar,
            options: Vec::new(),
        })
    }

    /// The same program, given these options too.
    pub fn with_options(mut self, options: Vec<String>) -> Self {
        self.options = options;
        self
    }

    /// Whether it knows tars, and not only directories.
    pub fn reads_tar(&self) -> bool {
        self.tar
    }

    /// Makes `image` of what is in `directory`.
    pub fn of_directory(&self, image: &Path, directory: &Path) -> Result<()> {
        place(image, |new| {
            let mut command = self.command();
            command.arg(PAGES).args(&self.options).arg(new).arg(directory);
            self.fed(&mut command, |_| Ok(()))
        })
        .map_err(|error| error.context(format_args!("make an EROFS image of {}", directory.display())))
    }

    /// Makes `image` an index of the tar of a layer with the tar behind it; the layer's whiteouts become overlayfs'. The layer's digest becomes
    /// the image's identity, so that the same layer makes the same image.
    ///
    /// A directory that the tar names only on the way, its root perhaps, gets mode 0777 from `mkfs.erofs` (seen with 1.9). That is why an image
    /// with the files themselves is made of a directory ([`Mkfs::of_directory`]) and never of the tar (`--tar=f`).
    pub fn index_of_tar(&self, image: &Path, tar: &mut dyn Read, layer: &Digest) -> Result<()> {
        place(image, |new| {
            let mut command = self.command();
            command.args(["--tar=i", "--aufs"]);
            // Blocks of 4 KiB, which a kernel with pages of any size mounts.
            if !self.options.iter().any(|option| option.starts_with("-b")) {
                command.arg("-b4096");
            }
            command.args(&self.options).args(["-U", &identity(layer)]).arg(new);
            // The tar goes behind its index, which is not known before its end.
            let kept = new.with_extension("tar");
            let opened = File::options()
                .create(true)
                .truncate(true)
                .read(true)
                .write(true)
                .open(&kept);
            let mut kept_tar = opened.map_err(|error| Error::io(format!("make {}", kept.display()), &error))?;
            std::fs::remove_file(&kept).map_err(|error| Error::io(format!("unlink {}", kept.display()), &error))?;
            self.fed(&mut command, |input| {
                let mut buffer = vec![0; BUFFER];
                loop {
                    let n = tar.read(&mut buffer)?;
                    if n == 0 {
                        return Ok(());
                    }
                    kept_tar.write_all(&buffer[..n])?;
                    input.write_all(&buffer[..n])?;
                }
            })?;
            let mut append = || -> io::Result<()> {
                io::Seek::rewind(&mut kept_tar)?;
                let mut image = File::options().append(true).open(new)?;
                io::copy(&mut kept_tar, &mut image).map(drop)
            };
            append().map_err(|error| Error::io(format!("put the tar behind {}", new.display()), &error))
        })
        .map_err(|error| error.context(format_args!("make an EROFS image of layer {layer}")))
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.path);
        command.arg("--quiet");
        command
    }

    /// Runs `command` with what `feed` writes as its input. Why it failed is what counts; only then whether all was said to it.
    fn fed(&self, command: &mut Command, feed: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<()> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| Error::io(format!("start {}", self.path.display()), &error))?;
        let errors = child.stderr.take();
        // Beside the feeding: it must never wait for somebody to listen.
        let listening = std::thread::spawn(move || errors.map(listen).unwrap_or_default());
        let fed = match child.stdin.take() {
            Some(mut input) => feed(&mut input),
            None => Err(io::Error::other("it has no input")),
        };
        // A program that ends early says why itself.
        let own_fault = matches!(&fed, Err(error) if error.kind() == io::ErrorKind::BrokenPipe);
        if fed.is_err() && !own_fault {
            // It must not take the end of its input for the end of the layer. It may be gone already.
            let _ = child.kill();
        }
        let status = child
            .wait()
            .map_err(|error| Error::io(format!("wait for {MKFS}"), &error))?;
        // A thread that only reads does not panic; had it, there would be nothing to say.
        let said = listening.join().unwrap_or_default();
        match fed {
            Err(error) if !own_fault => Err(match error.downcast::<Error>() {
                Ok(ours) => ours,
                Err(systems) => Error::io(format!("feed {MKFS}"), &systems),
            }),
            _ if !status.success() => Err(Error::internal(format!("{MKFS} ended with {status}: {}", said.trim()))),
            Err(error) => Err(Error::io(format!("feed {MKFS}"), &error)),
            Ok(()) => Ok(()),
        }
    }
}

/// What a program says, as far as it is of interest.
fn listen(mut errors: impl Read) -> String {
    let mut said = Vec::new();
    // What it says is for people; what cannot be read is not said.
    let _ = errors.by_ref().take(MAX_SAID).read_to_end(&mut said);
    let _ = io::copy(&mut errors, &mut io::sink());
    String::from_utf8_lossy(&said).into_owned()
}

/// A UUID made of a digest (RFC 9562, version 8).
fn identity(layer: &Digest) -> String {
    let digits: Vec<char> = layer.hex().chars().take(32).collect();
    let part = |from: usize, to: usize| {
        digits[from.min(digits.len())..to.min(digits.len())]
            .iter()
            .collect::<String>()
    };
    format!(
        "{}-{}-8{}-8{}-{}",
        part(0, 8),
        part(8, 12),
        part(13, 16),
        part(17, 20),
        part(20, 32)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layer_has_one_identity() {
        let layer = format!("sha256:{}", "0123456789abcdef".repeat(4))
            .parse()
            .expect("a digest");
        assert_eq!(identity(&layer), "01234567-89ab-8def-8123-456789abcdef");
    }

    /// A program that does what newer releases do, as far as can be seen from outside.
    fn stand_in(directory: &Path, script: &str) -> Mkfs {
        use std::os::unix::fs::PermissionsExt;
        let path = directory.join(MKFS);
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).expect("written");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("executable");
        Mkfs {
            path,
            tar: true,
            options: vec!["-zlz4".to_owned()],
        }
    }

    #[test]
    fn a_tar_is_fed_to_its_end_and_kept_behind_its_index() {
        let all = tempfile::tempdir().expect("a directory");
        let image = all.path().join("i.erofs");
        let layer: Digest = format!("sha256:{}", "ab".repeat(32)).parse().expect("a digest");
        let mkfs = stand_in(all.path(), "for last; do :; done; { echo \"$*\"; wc -c; } > \"$last\"");
        let tar = vec![7; 1 << 20];
        mkfs.index_of_tar(&image, &mut &tar[..], &layer).expect("made");
        let made = std::fs::read(&image).expect("there");
        let (said, kept) = made.split_at(made.len() - tar.len());
        let said = String::from_utf8_lossy(said);
        assert!(
            said.starts_with("--quiet --tar=i --aufs -b4096 -zlz4 -U abababab"),
            "{said}"
        );
        assert!(said.ends_with("\n1048576\n"), "{said}");
        assert_eq!(kept, tar);
        assert_eq!(
            std::fs::read_dir(all.path()).expect("read").count(),
            2,
            "nothing else stays"
        );
    }

    #[test]
    fn what_fails_leaves_no_image_and_says_why() {
        let all = tempfile::tempdir().expect("a directory");
        let image = all.path().join("i.erofs");
        let layer: Digest = format!("sha256:{}", "ab".repeat(32)).parse().expect("a digest");
        // It fails before it has read a pipe's worth.
        let mkfs = stand_in(all.path(), "echo 'no space for this' >&2; exit 3");
        let failed = mkfs.index_of_tar(&image, &mut &vec![0; 1 << 20][..], &layer);
        let message = failed.expect_err("it failed").message;
        assert!(
            message.contains("no space for this") && message.contains('3'),
            "{message}"
        );
        // The layer itself is damaged.
        struct Damaged;
        impl Read for Damaged {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::Error::other(Error::data_loss("the blob is damaged")))
            }
        }
        let mkfs = stand_in(all.path(), "for last; do :; done; cat > \"$last\"");
        let failed = mkfs.index_of_tar(&image, &mut Damaged, &layer).expect_err("damaged");
        assert_eq!(failed.code, crate::contract::Code::DataLoss);
        assert_eq!(
            std::fs::read_dir(all.path()).expect("read").count(),
            1,
            "no image stays"
        );
    }
}
