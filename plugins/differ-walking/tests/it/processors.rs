//! Layers that real programs make of what is none yet.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use orlop_plugin::contract::{Any, ApplyOptions, Code, Descriptor, Digest};
use orlop_plugin::registration::StreamProcessor;
use orlop_plugin::{Error, Result};
use sha2::{Digest as _, Sha256};

use crate::store::Store;
use crate::support::{bind, ctx, descriptor, differ_with, directory, packed};

const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const ENCRYPTED: &str = "application/vnd.oci.image.layer.v1.tar+gzip+encrypted";

/// A processor that is a script of sh.
fn script(id: &str, accepts: &str, returns: &str, script: &str) -> StreamProcessor {
    StreamProcessor {
        id: id.into(),
        accepts: vec!["x/other".into(), accepts.into()],
        returns: returns.into(),
        path: "sh".into(),
        args: vec!["-c".into(), script.into()],
        env: vec!["SECRET=salt and pepper".into()],
    }
}

/// The same layer bare and gzipped.
fn layer() -> (Vec<u8>, Vec<u8>) {
    let source = directory();
    fs::write(source.path().join("file"), noise(700_000)).expect("written");
    fs::write(source.path().join("hello"), "hello").expect("written");
    (packed(source.path(), None), packed(source.path(), Some("gzip")))
}

/// What does not compress, so that more is under way than pipes hold.
fn noise(length: usize) -> Vec<u8> {
    let mut seed = 1_u32;
    let mut next = || {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (seed >> 24) as u8
    };
    (0..length).map(|_| next()).collect()
}

fn encrypted(data: &[u8]) -> Vec<u8> {
    let directory = directory();
    let file = directory.path().join("data");
    fs::write(&file, data).expect("written");
    let output = Command::new("openssl")
        .args(["enc", "-aes-256-cbc", "-pbkdf2", "-pass", "pass:secret", "-in"])
        .arg(&file)
        .output()
        .expect("openssl is installed");
    assert!(output.status.success());
    output.stdout
}

const DECRYPT: &str = "exec openssl enc -d -aes-256-cbc -pbkdf2 -pass pass:secret";

/// Applies `blob` to `root`.
async fn apply(processors: &[StreamProcessor], media_type: &str, blob: &[u8], root: &Path) -> Result<Descriptor> {
    apply_with(processors, media_type, blob, root, ApplyOptions::default()).await
}

async fn apply_with(
    processors: &[StreamProcessor],
    media_type: &str,
    blob: &[u8],
    root: &Path,
    options: ApplyOptions,
) -> Result<Descriptor> {
    let store = Store::default();
    let differ = differ_with(&store, processors.to_vec()).await;
    let layer = descriptor(media_type, store.put(blob.to_vec()), blob.len());
    differ.apply(&ctx(), layer, bind(root, "rbind,rw"), options).await
}

#[track_caller]
fn applied(done: Result<Descriptor>, plain: &[u8], root: &Path) {
    let diff_id = Digest::from_sha256(Sha256::digest(plain));
    assert_eq!(done.expect("applied"), descriptor(LAYER, diff_id, plain.len()));
    assert_eq!(fs::read(root.join("file")).expect("there"), noise(700_000));
}

#[track_caller]
fn failed(done: Result<Descriptor>, code: Code, said: &[&str]) -> Error {
    let error = done.expect_err("not applied");
    assert_eq!(error.code, code, "{error}");
    for said in said {
        assert!(error.message.contains(said), "{said:?} in {error}");
    }
    error
}

#[tokio::test]
async fn an_encrypted_layer_is_decrypted_on_its_way() {
    let ((plain, gzip), root) = (layer(), directory());
    let decrypt = script("decrypt", ENCRYPTED, GZIP, DECRYPT);
    applied(
        apply(&[decrypt], ENCRYPTED, &encrypted(&gzip), root.path()).await,
        &plain,
        root.path(),
    );
}

#[tokio::test]
async fn one_program_may_be_behind_another_and_in_place_of_what_is_built_in() {
    let ((plain, gzip), root) = (layer(), directory());
    let chain = [
        script("unzip", GZIP, LAYER, "exec gzip -dc"),
        script("decrypt", ENCRYPTED, "x/rotated", DECRYPT),
        script("rotate", "x/rotated", GZIP, "exec tr '\\001-\\377\\000' '\\000-\\377'"),
    ];
    let rotated: Vec<u8> = gzip.iter().map(|byte| byte.wrapping_add(1)).collect();
    applied(
        apply(&chain, ENCRYPTED, &encrypted(&rotated), root.path()).await,
        &plain,
        root.path(),
    );

    let root = directory();
    let own = [script("own", GZIP, LAYER, "gzip -dc; echo used >&2; exit 7")];
    failed(
        apply(&own, GZIP, &gzip, root.path()).await,
        Code::FailedPrecondition,
        &["own", "status: 7", "used"],
    );
}

#[tokio::test]
async fn a_program_is_told_the_media_type_its_environment_and_its_payload() {
    let ((plain, gzip), root, notes) = (layer(), directory(), directory());
    let tell = format!(
        "cd {}; echo $STREAM_PROCESSOR_MEDIATYPE > type; echo $SECRET > secret; cat <&3 > payload; exec cat",
        notes.path().display()
    );
    let payload = Any {
        type_url: "example/keys".into(),
        value: vec![9; 300_000],
    };
    let options = ApplyOptions {
        payloads: [("tell".to_owned(), payload.clone())].into(),
        ..ApplyOptions::default()
    };
    let told = [script("tell", ENCRYPTED, GZIP, &tell)];
    applied(
        apply_with(&told, ENCRYPTED, &gzip, root.path(), options).await,
        &plain,
        root.path(),
    );
    let note = |name| fs::read(notes.path().join(name)).expect("written");
    assert_eq!(note("type"), format!("{ENCRYPTED}\n").into_bytes());
    assert_eq!(note("secret"), b"salt and pepper\n");
    assert_eq!(note("payload"), prost::Message::encode_to_vec(&payload));

    // Payloads of others are theirs: there is no descriptor 3.
    let root = directory();
    let closed = [script(
        "closed",
        ENCRYPTED,
        GZIP,
        "if (: <&3) 2>/dev/null; then exit 9; fi; exec cat",
    )];
    let options = ApplyOptions {
        payloads: [("other".to_owned(), payload)].into(),
        ..ApplyOptions::default()
    };
    applied(
        apply_with(&closed, ENCRYPTED, &gzip, root.path(), options).await,
        &plain,
        root.path(),
    );
}

#[tokio::test]
async fn a_program_that_fails_fails_the_layer_however_good_it_looked() {
    let ((_, gzip), root) = (layer(), directory());
    for (code, said) in [
        (
            "cat; echo the key is wrong >&2; exit 3",
            "exit status: 3: the key is wrong",
        ),
        ("echo no key >&2; exit 1", "exit status: 1: no key"),
        ("cat; kill -KILL $$", "signal: 9"),
        ("head -c 1000; exit 1", "it said nothing"),
    ] {
        let bad = [script("bad", ENCRYPTED, GZIP, code)];
        failed(
            apply(&bad, ENCRYPTED, &gzip, root.path()).await,
            Code::FailedPrecondition,
            &["apply layer sha256:", "the stream processor bad (sh) failed", said],
        );
    }
    // The last one is the first to notice, and the first one knows why.
    let chain = [
        script(
            "decrypt",
            ENCRYPTED,
            "x/1",
            "cat > /dev/null; echo bad decrypt >&2; exit 1",
        ),
        script("unzip", "x/1", LAYER, "gzip -dc"),
    ];
    failed(
        apply(&chain, ENCRYPTED, &gzip, root.path()).await,
        Code::FailedPrecondition,
        &["bad decrypt"],
    );
}

#[tokio::test]
async fn output_that_is_no_layer_is_an_error_with_what_the_program_said() {
    let ((_, gzip), root) = (layer(), directory());
    // More than a pipe holds: when it comes to its output, what it said before was read.
    let rubbish = "echo guessing >&2; head -c 200000 /dev/zero | tr '\\000' ' ' >&2; head -c 3000000 /dev/urandom; exec sleep 1000";
    let odd = [script("odd", ENCRYPTED, LAYER, rubbish)];
    failed(
        apply(&odd, ENCRYPTED, &gzip, root.path()).await,
        Code::InvalidArgument,
        &["odd says: guessing"],
    );
    let cut = [script("cut", ENCRYPTED, GZIP, "head -c 100000")];
    failed(
        apply(&cut, ENCRYPTED, &gzip, root.path()).await,
        Code::InvalidArgument,
        &["apply layer"],
    );
}

#[tokio::test]
async fn a_program_need_not_read_all_it_is_given() {
    let ((plain, _), root, elsewhere) = (layer(), directory(), directory());
    let file = elsewhere.path().join("layer");
    fs::write(&file, &plain).expect("written");
    let own = [script("own", ENCRYPTED, LAYER, &format!("exec cat {}", file.display()))];
    applied(
        apply(&own, ENCRYPTED, &noise(3_000_000), root.path()).await,
        &plain,
        root.path(),
    );
}

#[tokio::test]
async fn one_that_is_not_installed_is_named() {
    let ((_, gzip), root) = (layer(), directory());
    let mut missing = script("decoder", ENCRYPTED, GZIP, "");
    missing.path = "ctd-decoder-that-nobody-has".into();
    failed(
        apply(&[missing], ENCRYPTED, &gzip, root.path()).await,
        Code::FailedPrecondition,
        &["ctd-decoder-that-nobody-has", "decoder", "No such file"],
    );
}

#[tokio::test]
async fn programs_end_with_the_call() {
    let ((_, gzip), root, notes) = (layer(), directory(), directory());
    let note = notes.path().join("pid");
    let hang = format!("sleep 1000 & echo $! > {0}.new; mv {0}.new {0}; wait", note.display());
    let chain = [
        script("pass", ENCRYPTED, "x/1", "exec cat"),
        script("hang", "x/1", GZIP, &hang),
    ];
    tokio::select! {
        done = apply(&chain, ENCRYPTED, &gzip, root.path()) => panic!("{done:?}"),
        () = until(|| note.exists()) => {}
    }
    let pid = fs::read_to_string(&note).expect("its id");
    let ps = || {
        let mut ps = Command::new("ps");
        let output = ps
            .args(["-o", "stat=", "-p", pid.trim()])
            .stderr(Stdio::null())
            .output();
        String::from_utf8(output.expect("ps runs").stdout).expect("text")
    };
    // Its parent is gone too: it may be there for a while as a zombie.
    until(|| matches!(ps().trim(), state if state.is_empty() || state.starts_with('Z'))).await;
}

async fn until(mut true_at_last: impl FnMut() -> bool) {
    while !true_at_last() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
