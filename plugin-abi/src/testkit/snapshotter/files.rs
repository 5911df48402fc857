//! What a file is besides its content: its times, its other names, its attributes, and what it is when it is no file.

use std::fs::{File, FileTimes, create_dir, hard_link, metadata, read, rename, write};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::time::{Duration, SystemTime};

use rustix::fs::{CWD, FileType, Mode, XattrFlags, getxattr, makedev, mknodat, setxattr};

use super::super::tree::{Edit, picture};
use super::super::{Failure, Outcome, Suite, ensure, mounted, same};
use super::{Kit, Names};

/// A moment that no clock shows now, with a part of a second.
const MOMENT: Duration = Duration::from_nanos(1_234_567_890_123_456_789);

pub(super) async fn run(kit: &Kit, suite: &mut Suite) {
    suite.check("files keep their times", times(kit, Names("times"))).await;
    suite
        .check(
            "names of one file stay names of one file",
            links(kit, Names("hard-links")),
        )
        .await;
    suite
        .check("pipes and devices stay what they are", special(kit, Names("special")))
        .await;
    suite
        .check("files keep their attributes", attributes(kit, Names("attributes")))
        .await;
    suite
        .check(
            "a directory is renamed, or that is left to who asks",
            directories(kit, Names("directories")),
        )
        .await;
    suite
        .check(
            "a file that is replaced in an upper layer is the same below",
            replaced(kit, Names("replaced")),
        )
        .await;
}

/// Makes a layer by `make`, looks at it with `look`, and once more with a layer on top that has nothing to do with it.
async fn kept(
    kit: &Kit,
    names: Names,
    make: impl FnOnce(&Path) -> io::Result<()>,
    look: impl Fn(&Path) -> Outcome,
) -> Outcome {
    let (key, one, two) = (names.of("active"), names.of("one"), names.of("two"));
    let mounts = kit.prepare(&key, "").await?;
    mounted(&mounts, make)??;
    kit.commit(&one, &key).await?;
    kit.look(&one, &look).await??;
    kit.layer(&two, &one, &[Edit::File("other", "x")]).await?;
    kit.look(&two, &look)
        .await?
        .map_err(|Failure(what)| Failure(format!("with a layer on top: {what}")))?;
    kit.remove_all(&[&two, &one]).await
}

async fn times(kit: &Kit, names: Names) -> Outcome {
    let moment = SystemTime::UNIX_EPOCH + MOMENT;
    let make = |root: &Path| {
        create_dir(root.join("d"))?;
        write(root.join("d/f"), "f")?;
        for name in ["d/f", "d"] {
            let open = File::open(root.join(name))?;
            open.set_times(FileTimes::new().set_accessed(moment).set_modified(moment))?;
        }
        Ok(())
    };
    let look = |root: &Path| {
        for name in ["d/f", "d"] {
            same(
                &format!("the time of {name}"),
                metadata(root.join(name))?.modified()?,
                moment,
            )?;
        }
        Ok(())
    };
    kept(kit, names, make, look).await
}

async fn links(kit: &Kit, names: Names) -> Outcome {
    let make = |root: &Path| {
        create_dir(root.join("d"))?;
        write(root.join("a"), "a")?;
        hard_link(root.join("a"), root.join("d/b"))?;
        write(root.join("c"), "a")
    };
    let look = |root: &Path| {
        let inode = |name: &str| metadata(root.join(name)).map(|file| (file.ino(), file.nlink()));
        let (a, b, c) = (inode("a")?, inode("d/b")?, inode("c")?);
        same("the inode and the number of names of d/b", b, a)?;
        same("the number of names", (a.1, c.1), (2, 1))?;
        ensure(a.0 != c.0, || {
            "a file with the same content became the same file".to_owned()
        })
    };
    kept(kit, names, make, look).await
}

async fn special(kit: &Kit, names: Names) -> Outcome {
    let make = |root: &Path| {
        mknodat(CWD, root.join("pipe"), FileType::Fifo, Mode::from_raw_mode(0o640), 0)?;
        let null = makedev(1, 3);
        mknodat(
            CWD,
            root.join("null"),
            FileType::CharacterDevice,
            Mode::from_raw_mode(0o600),
            null,
        )?;
        mknodat(
            CWD,
            root.join("socket"),
            FileType::Socket,
            Mode::from_raw_mode(0o600),
            0,
        )?;
        Ok(())
    };
    let look = |root: &Path| {
        let pipe = metadata(root.join("pipe"))?;
        ensure(pipe.file_type().is_fifo(), || "the pipe is none".to_owned())?;
        let null = metadata(root.join("null"))?;
        ensure(null.file_type().is_char_device(), || "the device is none".to_owned())?;
        same("the device's number", null.rdev(), makedev(1, 3))?;
        let socket = metadata(root.join("socket"))?;
        ensure(socket.file_type().is_socket(), || "the socket is none".to_owned())
    };
    kept(kit, names, make, look).await
}

async fn attributes(kit: &Kit, names: Names) -> Outcome {
    // What cap_net_raw+ep looks like (linux/capability.h): ping has it.
    const CAPABILITY: [u8; 20] = [1, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let all: [(&str, &[u8]); 2] = [("user.testkit", b"kept"), ("security.capability", &CAPABILITY)];
    let make = |root: &Path| {
        write(root.join("f"), "f")?;
        for (name, value) in all {
            setxattr(root.join("f"), name, value, XattrFlags::CREATE)?;
        }
        Ok(())
    };
    let look = |root: &Path| {
        for (name, value) in all {
            let mut found = [0; 64];
            let length = getxattr(root.join("f"), name, &mut found[..])
                .map_err(|error| Failure(format!("read {name}: {error}")))?;
            same(name, &found[..length], value)?;
        }
        Ok(())
    };
    kept(kit, names, make, look).await
}

async fn directories(kit: &Kit, names: Names) -> Outcome {
    let (base, key, name) = (names.of("base"), names.of("key"), names.of("name"));
    let edits = [Edit::Directory("old", 0o750), Edit::File("old/f", "f")];
    kit.layer(&base, "", &edits).await?;
    let mounts = kit.prepare(&key, &base).await?;
    let (renamed, expected) = mounted(&mounts, |root| {
        let before = picture(root)?;
        let renamed = match rename(root.join("old"), root.join("new")) {
            Ok(()) => true,
            // What overlayfs says without redirect_dir: who asks copies instead, mv(1) does.
            Err(error) if error.kind() == io::ErrorKind::CrossesDevices => {
                same("what is there after a refusal", picture(root)?, before)?;
                false
            }
            Err(error) => return Err(error.into()),
        };
        Ok::<_, Failure>((renamed, picture(root)?))
    })??;
    kit.commit(&name, &key).await?;
    let seen = kit.look(&name, picture).await??;
    same("the root after the commit", &seen, &expected)?;
    same("whether the file has moved", seen.contains_key("/new/f"), renamed)?;
    kit.remove_all(&[&name, &base]).await
}

/// docker/docker#21555: of the same length, in the same second.
async fn replaced(kit: &Kit, names: Names) -> Outcome {
    let (below, above) = (names.of("below"), names.of("above"));
    kit.layer(&below, "", &[Edit::File("hosts", "10.0.0.1")]).await?;
    let mounts = kit.prepare(&names.of("active"), &below).await?;
    mounted(&mounts, |root| {
        write(root.join("new"), "10.0.0.2")?;
        let time = metadata(root.join("hosts"))?.modified()?;
        File::open(root.join("new"))?.set_modified(time)?;
        rename(root.join("new"), root.join("hosts"))
    })??;
    kit.commit(&above, &names.of("active")).await?;
    let content = |root: &Path| read(root.join("hosts"));
    same(
        "the file above",
        kit.look(&above, content).await??,
        b"10.0.0.2".to_vec(),
    )?;
    same(
        "the file below",
        kit.look(&below, content).await??,
        b"10.0.0.1".to_vec(),
    )?;
    kit.remove_all(&[&above, &below]).await
}
