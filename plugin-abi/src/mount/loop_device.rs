//! Loop devices: a file as a block device, freed by the kernel when nobody uses it any more.
#![expect(
    unsafe_code,
    reason = "loop devices are driven by ioctls, which no crate of ours wraps"
)]

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

/// How often a free device that somebody else took first is looked for again.
const ATTEMPTS: u32 = 100;

const LO_FLAGS_READ_ONLY: u32 = 1;
const LO_FLAGS_AUTOCLEAR: u32 = 4;

/// `struct loop_info64` of linux/loop.h.
#[repr(C)]
#[derive(Clone, Copy)]
struct LoopInfo {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    size_limit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

/// `struct loop_config` of linux/loop.h.
#[repr(C)]
struct LoopConfig {
    fd: u32,
    block_size: u32,
    info: LoopInfo,
    reserved: [u64; 8],
}

nix::ioctl_none_bad!(loop_ctl_get_free, 0x4c82);
nix::ioctl_write_ptr_bad!(loop_configure, 0x4c0a, LoopConfig);

/// A loop device in use: it stays while this or a mount holds it.
pub(crate) struct LoopDevice {
    pub(crate) path: PathBuf,
    _open: File,
}

/// Puts `image` on a free loop device.
pub(crate) fn attach(image: &Path, read_only: bool) -> io::Result<LoopDevice> {
    let say = |what: String| move |error: io::Error| io::Error::new(error.kind(), format!("{what}: {error}"));
    let open = |path: &Path| {
        OpenOptions::new()
            .read(true)
            .write(!read_only)
            .open(path)
            .map_err(say(format!("open {}", path.display())))
    };
    let image_file = open(image)?;
    let control = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/loop-control")
        .map_err(say("open /dev/loop-control (is the loop module there?)".to_owned()))?;
    for _ in 0..ATTEMPTS {
        // SAFETY: the request takes no argument and touches no memory of ours; the descriptor is open.
        let number = unsafe { loop_ctl_get_free(control.as_raw_fd()) }?;
        let path = PathBuf::from(format!("/dev/loop{number}"));
        let device = open(&path)?;
        let config = config(&image_file, image, read_only);
        // SAFETY: `config` has the layout of `struct loop_config` and outlives the call, which only reads it.
        match unsafe { loop_configure(device.as_raw_fd(), &raw const config) } {
            Ok(_) => return Ok(LoopDevice { path, _open: device }),
            // Somebody else was faster.
            Err(nix::Error::EBUSY) => {}
            Err(error) => {
                return Err(say(format!("put {} on {}", image.display(), path.display()))(
                    error.into(),
                ));
            }
        }
    }
    Err(io::Error::new(
        io::ErrorKind::ResourceBusy,
        format!(
            "no loop device stayed free for {} in {ATTEMPTS} attempts",
            image.display()
        ),
    ))
}

fn config(file: &File, image: &Path, read_only: bool) -> LoopConfig {
    use std::os::unix::ffi::OsStrExt;
    let mut file_name = [0; 64];
    // Only for people who list loop devices; the last byte stays NUL.
    let name = image.as_os_str().as_bytes();
    let shown = &name[..name.len().min(63)];
    file_name[..shown.len()].copy_from_slice(shown);
    LoopConfig {
        fd: file.as_raw_fd().cast_unsigned(),
        block_size: 0,
        info: LoopInfo {
            device: 0,
            inode: 0,
            rdevice: 0,
            offset: 0,
            size_limit: 0,
            number: 0,
            encrypt_type: 0,
            encrypt_key_size: 0,
            flags: LO_FLAGS_AUTOCLEAR | if read_only { LO_FLAGS_READ_ONLY } else { 0 },
            file_name,
            crypt_name: [0; 64],
            encrypt_key: [0; 32],
            init: [0; 2],
        },
        reserved: [0; 8],
    }
}

const _: () = assert!(size_of::<LoopInfo>() == 232 && size_of::<LoopConfig>() == 304);
