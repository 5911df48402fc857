//! What can be seen in a mount: every layer's changes over those below, and nothing else.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;

use super::super::temporary::Temporary;
use super::super::tree::{Edit, apply, compare, picture};
use super::super::{Failure, Outcome, Suite, ensure, mounted, same};
use super::{Kit, Names};

/// More layers than most images have, and than fit the page that mount(2) takes; as in containerd's suite.
const MANY: usize = 128;

pub(super) async fn run(kit: &Kit, suite: &mut Suite) {
    use Edit::{Directory, File, Link, Mode, Owner, Remove, Rename, Symlink};
    let shapes: [(&str, Names, &[&[Edit]]); 10] = [
        (
            "files are changed, added and removed",
            Names("files"),
            &[
                &[
                    File("foo", "foo\n"),
                    File("gone", "x"),
                    Directory("a", 0o755),
                    Directory("a/b", 0o700),
                    File("a/b/c", "c"),
                ],
                &[File("foo", "bar\n"), File("new", "new\n"), Remove("gone")],
                &[File("gone", "back"), Remove("a/b/c")],
            ],
        ),
        (
            "a directory is removed and made anew, empty",
            Names("opaque"),
            &[
                &[
                    Directory("d", 0o755),
                    File("d/f", "f"),
                    Directory("d/e", 0o755),
                    File("d/e/g", "g"),
                ],
                &[Remove("d"), Directory("d", 0o711), File("d/h", "h")],
                &[Remove("d")],
            ],
        ),
        (
            "kinds replace each other",
            Names("kinds"),
            &[
                &[
                    Directory("x", 0o755),
                    File("x/f", "f"),
                    File("y", "y"),
                    Symlink("z", "y"),
                ],
                &[
                    Remove("x"),
                    File("x", "a file"),
                    Remove("y"),
                    Directory("y", 0o755),
                    Remove("z"),
                    File("z", "z"),
                ],
                &[Remove("x"), Symlink("x", "../..")],
            ],
        ),
        (
            "files are renamed across layers",
            Names("renames"),
            &[
                &[
                    Directory("one", 0o700),
                    File("one/f", "hello"),
                    Directory("two", 0o755),
                    File("two/g", "..."),
                ],
                &[
                    Rename("one/f", "two/f"),
                    Rename("two/g", "two/h"),
                    File("two/g", "another"),
                ],
            ],
        ),
        (
            "a second name outlives the first",
            Names("links"),
            &[
                &[Directory("one", 0o755), File("one/f", "data"), Directory("two", 0o755)],
                &[Link("one/f", "two/f"), Remove("one/f")],
            ],
        ),
        (
            "owners and modes change",
            Names("owners"),
            &[
                &[
                    Directory("opt", 0o755),
                    Directory("opt/a", 0o755),
                    File("opt/a/f", "f"),
                    File("s", "s"),
                ],
                &[Owner("opt", 1, 1), Owner("opt/a/f", 2, 3), Mode("s", 0o4711)],
                &[Mode("opt", 0o750), Owner("s", 1000, 1000)],
            ],
        ),
        (
            "directories keep owner and mode through commits, whatever happens in them",
            Names("permissions"),
            &[
                &[
                    Directory("one", 0o700),
                    Directory("two", 0o700),
                    Directory("three", 0o700),
                    Directory("four", 0o700),
                    File("four/f", "..."),
                    Directory("five", 0o700),
                    File("five/f", "..."),
                    Owner("one", 1, 1),
                    Owner("two", 1, 1),
                    Owner("three", 1, 1),
                    Owner("five", 1, 1),
                    Owner("five/f", 1, 1),
                ],
                &[
                    Owner("two", 0, 0),
                    Remove("three"),
                    Owner("four", 1, 1),
                    Owner("four/f", 1, 1),
                ],
                &[
                    Directory("three", 0o700),
                    Owner("three", 1, 1),
                    Remove("five"),
                    Directory("five", 0o700),
                    Owner("five", 1, 1),
                ],
            ],
        ),
        (
            "what a directory that was made anew hides stays hidden",
            Names("hidden"),
            &[
                &[Directory("lib", 0o700), File("lib/hidden", "")],
                &[Remove("lib"), Directory("lib", 0o700), File("lib/seen", "")],
                &[File("lib/new", "")],
            ],
        ),
        (
            "a symbolic link has an owner of its own, and second names of a file its",
            Names("lchown"),
            &[
                &[
                    File("f", "f"),
                    Symlink("s", "f"),
                    Link("f", "g"),
                    Link("s", "t"),
                    Owner("g", 7, 8),
                ],
                // Not a name of two: overlayfs copies it up by itself, and it is a file of its own from then on.
                &[Symlink("u", "f"), Owner("u", 5, 6)],
                &[Remove("f"), Owner("u", 7, 8)],
            ],
        ),
        (
            "whom the root belongs to is said by the layers too",
            Names("root"),
            &[&[File("f", "f")], &[Owner("", 10, 20)], &[File("g", "g")]],
        ),
    ];
    for (rule, names, layers) in shapes {
        suite.check(rule, stack(kit, names, layers)).await;
    }
    suite
        .check(
            "the root of a new snapshot has mode 0755",
            root_mode(kit, Names("mode")),
        )
        .await;
    suite
        .check("a view cannot be written", read_only(kit, Names("read-only")))
        .await;
    suite
        .check("siblings do not see each other", siblings(kit, Names("siblings")))
        .await;
    suite.check("128 layers are one root", many(kit, Names("many"))).await;
    suite
        .check(
            "usage is a snapshot's own, and stays after the commit",
            usage(kit, Names("usage")),
        )
        .await;
}

/// Makes layers on a snapshotter and in a plain directory side by side, and compares after each.
async fn stack(kit: &Kit, names: Names, layers: &[&[Edit]]) -> Outcome {
    // What the layers would be without a snapshotter.
    let plain = Temporary::new()?;
    let mut chain: Vec<String> = Vec::new();
    for (i, edits) in layers.iter().enumerate() {
        let in_layer = |Failure(what)| Failure(format!("layer {i}: {what}"));
        let below = picture(plain.path())?;
        apply(plain.path(), edits)?;
        let expected = picture(plain.path())?;
        let parent = chain.last().cloned().unwrap_or_default();
        let (key, name) = (names.of(&format!("active-{i}")), names.of(&format!("layer-{i}")));
        let mounts = kit.prepare(&key, &parent).await?;
        let made = mounted(&mounts, |root| {
            compare(&picture(root)?, &below)?;
            apply(root, edits)?;
            compare(&picture(root)?, &expected)
        })?;
        made.map_err(in_layer)?;
        kit.commit(&name, &key).await?;
        kit.look(&name, |root| compare(&picture(root)?, &expected))
            .await?
            .map_err(in_layer)?;
        chain.push(name);
    }
    for name in chain.iter().rev() {
        kit.remove(name).await?;
    }
    Ok(())
}

async fn root_mode(kit: &Kit, names: Names) -> Outcome {
    let key = names.of("key");
    let mounts = kit.prepare(&key, "").await?;
    let mode = mounted(&mounts, |root| {
        root.metadata().map(|metadata| metadata.permissions().mode() & 0o7777)
    })??;
    same("the mode", format!("{mode:o}"), "755".to_owned())?;
    kit.remove_all(&[&key]).await
}

async fn read_only(kit: &Kit, names: Names) -> Outcome {
    let (one, two) = (names.of("one"), names.of("two"));
    kit.layer(&one, "", &[Edit::File("f", "f")]).await?;
    kit.layer(&two, &one, &[Edit::File("g", "g")]).await?;
    for parent in ["", &one, &two] {
        let key = names.of("view");
        let mounts = kit.view(&key, parent).await?;
        let (written, changed) = mounted(&mounts, |root| {
            (
                std::fs::write(root.join("new"), "x").is_ok(),
                std::fs::write(root.join("f"), "x").is_ok(),
            )
        })?;
        kit.remove(&key).await?;
        ensure(!written && !changed, || format!("a view of {parent:?} was written to"))?;
    }
    kit.remove_all(&[&two, &one]).await
}

async fn siblings(kit: &Kit, names: Names) -> Outcome {
    let (base, a, b) = (names.of("base"), names.of("a"), names.of("b"));
    kit.layer(&base, "", &[Edit::File("f", "base")]).await?;
    let (of_a, of_b) = (kit.prepare(&a, &base).await?, kit.prepare(&b, &base).await?);
    mounted(&of_a, |root| {
        apply(root, &[Edit::File("f", "a"), Edit::File("only-a", "a")])
    })??;
    let seen = mounted(&of_b, picture_of)??;
    ensure(!seen.contains_key("/only-a"), || "b has a file of a's".to_owned())?;
    let again = mounted(&kit.snapshotter.mounts(&kit.ctx, &a).await?, picture_of)??;
    ensure(again.contains_key("/only-a"), || {
        "what was written into a is not there when it is mounted again".to_owned()
    })?;
    kit.remove_all(&[&a, &b, &base]).await
}

fn picture_of(root: &std::path::Path) -> Result<BTreeMap<String, String>, Failure> {
    picture(root)
}

async fn many(kit: &Kit, names: Names) -> Outcome {
    let plain = Temporary::new()?;
    let mut parent = String::new();
    for i in 0..MANY {
        let key = names.of(&format!("active-{i}"));
        let mounts = kit.prepare(&key, &parent).await?;
        let change = |root: &std::path::Path| -> std::io::Result<()> {
            std::fs::write(root.join("overwritten"), format!("{i} was here"))?;
            std::fs::write(root.join(format!("own-{i}")), "same")?;
            // Each layer hides what the one below has in it.
            match std::fs::remove_dir_all(root.join("only-one")) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            std::fs::create_dir(root.join("only-one"))?;
            std::fs::write(root.join(format!("only-one/{i}")), "only me")
        };
        change(plain.path())?;
        mounted(&mounts, change)??;
        parent = names.of(&format!("layer-{i}"));
        kit.commit(&parent, &key).await?;
    }
    let expected = picture(plain.path())?;
    let key = names.of("top");
    let mounts = kit.prepare(&key, &parent).await?;
    mounted(&mounts, |root| compare(&picture(root)?, &expected))??;
    kit.remove(&key).await?;
    kit.look(&parent, |root| compare(&picture(root)?, &expected)).await??;
    for i in (0..MANY).rev() {
        kit.remove(&names.of(&format!("layer-{i}"))).await?;
    }
    Ok(())
}

async fn usage(kit: &Kit, names: Names) -> Outcome {
    const BYTES: u64 = 1 << 20;
    let (base, key, name) = (names.of("base"), names.of("key"), names.of("name"));
    let (snapshotter, ctx) = (&kit.snapshotter, &kit.ctx);
    kit.layer(&base, "", &[]).await?;
    let mounts = kit.prepare(&key, &base).await?;
    let empty = snapshotter.usage(ctx, &key).await?;
    // Noise, so that a file system that compresses or shares has to keep all of it.
    let mut state = 1_u64;
    let noise: Vec<u8> = std::iter::repeat_with(|| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    })
    .take(BYTES as usize)
    .collect();
    mounted(&mounts, |root| {
        std::fs::write(root.join("noise"), &noise)?;
        std::fs::File::open(root.join("noise"))?.sync_all()
    })??;
    let full = snapshotter.usage(ctx, &key).await?;
    ensure(full.size >= empty.size + BYTES, || {
        format!("it grew from {empty:?} to {full:?} by a file of {BYTES} bytes")
    })?;
    kit.commit(&name, &key).await?;
    let committed = snapshotter.usage(ctx, &name).await?;
    ensure(committed.size >= BYTES, || {
        format!("it takes {committed:?} after the commit")
    })?;
    kit.prepare(&key, &name).await?;
    same("the usage of a parent", snapshotter.usage(ctx, &name).await?, committed)?;
    kit.remove_all(&[&key, &name, &base]).await
}
