//! The daemon's transfer service: it pulls and pushes, or reads an archive that this client streams to it.
//!
//! Streams are calls of their own (`Streaming.Stream`), named by whom opens them; the transfer refers to them by name.
//! [`stream`] has their protocol, [`registry`] answers the daemon's questions for
//! credentials, [`crate::progress`] prints what it tells.

pub mod registry;
mod stream;

use crate::client::{Client, describe_status, unique_part};
use crate::image::import::ImportArgs;
use crate::image::platform::Platform;
use crate::{plugin, progress};
use anyhow::{Context, Result, ensure};
use containerd_client::services::v1::{TransferOptions, TransferRequest};
use containerd_client::types::transfer::{
    ImageImportStream, ImageReference, ImageStore, Progress, UnpackConfiguration,
};
use prost::{Message, Name};
use prost_types::Any;
use std::io::Read;
use stream::{ByteSender, Stream};
use tokio::sync::{mpsc, oneshot};

/// The plugins that a transfer needs: the transferrer, its service, and the service of the streams.
const NEEDED: [(&str, &str); 3] = [
    ("io.containerd.transfer.v1", "local"),
    ("io.containerd.grpc.v1", "transfer"),
    ("io.containerd.grpc.v1", "streaming"),
];

/// A message as the API carries it: containerd's type URLs have no host.
pub fn any<M: Message + Name>(message: &M) -> Any {
    Any {
        type_url: M::full_name(),
        value: message.encode_to_vec(),
    }
}

/// Whether the daemon has a transfer service that works.
pub async fn is_offered(client: &Client) -> Result<bool> {
    let filters = NEEDED
        .iter()
        .map(|(kind, id)| format!("type=={kind},id=={id}"))
        .collect();
    let found = plugin::list(client, filters).await?;
    let works = |(kind, id): &(&str, &str)| {
        found
            .iter()
            .any(|plugin| plugin.r#type == *kind && plugin.id == *id && plugin.init_err.is_none())
    };
    Ok(NEEDED.iter().all(works))
}

/// Fails with what to do when the daemon has no transfer service that works.
pub async fn require(client: &Client, what: &str) -> Result<()> {
    ensure!(
        is_offered(client).await?,
        "{what} needs the daemon's transfer service, which this daemon does not have: see `ctr plugins ls` for \
         io.containerd.transfer.v1, or use `skopeo copy` to or from an archive and `ctr images import` or `export`"
    );
    Ok(())
}

/// Has the daemon transfer something, and prints what becomes of it.
pub async fn run(client: &Client, source: Any, destination: Any) -> Result<()> {
    let id = format!("progress-{}", unique_part());
    let stream = Stream::open(client, &id)
        .await
        .context("cannot open the progress stream")?;
    let request = TransferRequest {
        source: Some(source),
        destination: Some(destination),
        options: Some(TransferOptions { progress_stream: id }),
    };
    let (told, tells) = mpsc::unbounded_channel();
    let (ended, end) = oneshot::channel();
    let printer = tokio::spawn(progress::show(tells));
    let listener = tokio::spawn(listen(stream, told, end));
    let done = client.transfer().transfer(client.request(request)).await;
    // What the daemon told before it answered has arrived: it only has to be printed.
    let _ = ended.send(());
    let _ = listener.await;
    let _ = printer.await;
    done?;
    Ok(())
}

/// Hands on what is told over a stream until the daemon closes it, or what was told before `end`.
async fn listen(mut stream: Stream, told: mpsc::UnboundedSender<Progress>, mut end: oneshot::Receiver<()>) {
    loop {
        let message = tokio::select! {
            biased;
            message = stream.next() => message,
            _ = &mut end => return,
        };
        match message {
            Ok(Some(message)) => {
                let Ok(progress) = Progress::decode(message.value.as_slice()) else {
                    continue;
                };
                if told.send(progress).is_err() {
                    return;
                }
            }
            Ok(None) => return,
            Err(status) => {
                eprintln!("ctr: progress: {}", describe_status(&status));
                return;
            }
        }
    }
}

/// Imports an archive through the transfer service.
pub async fn import(client: &Client, args: &ImportArgs, source: Box<dyn Read + Send>) -> Result<()> {
    let id = format!("import-{}", unique_part());
    let store = image_store(args)?;
    let stream = Stream::open(client, &id)
        .await
        .context("cannot open the import stream")?;
    let archive = ImageImportStream {
        stream: id,
        media_type: String::new(),
        force_compress: args.compress_blobs,
    };
    let sender = ByteSender::start(stream, source);
    let done = run(client, any(&archive), any(&store)).await;
    // What the service says about an archive that ended early says less than why it did.
    sender.error().map_or(done, Err)
}

/// What is to become of the images: their names, and what is unpacked.
fn image_store(args: &ImportArgs) -> Result<ImageStore> {
    let (name, given) = args.base();
    let reference = ImageReference {
        name,
        is_prefix: true,
        // A made-up prefix gives way to a whole name in the archive.
        allow_overwrite: !given,
        add_digest: args.digests,
        skip_named_digest: args.digests && args.skip_digest_for_named,
    };
    let platform = match args.platform.as_deref().filter(|_| !args.all_platforms) {
        Some(platform) => Platform::parse(platform)?,
        None => Platform::host(),
    };
    let unpack = UnpackConfiguration {
        platform: Some(platform.to_api()),
        snapshotter: args.snapshotter.name.clone(),
    };
    Ok(ImageStore {
        name: args.index_name.clone(),
        labels: crate::spec::parse::labels(&args.label).into_iter().collect(),
        platforms: if args.all_platforms {
            Vec::new()
        } else {
            vec![platform.to_api()]
        },
        extra_references: vec![reference],
        unpacks: if args.no_unpack { Vec::new() } else { vec![unpack] },
        ..ImageStore::default()
    })
}
