//! Layers to snapshots: each is prepared on its parent, applied by the daemon, and committed under its chain id.

use super::model::Descriptor;
use super::resolve::{Image, chain_ids};
use crate::client::{Client, unique_part};
use crate::content::store;
use anyhow::{Context, Result, ensure};
use containerd_client::services::v1::ApplyRequest;
use containerd_client::services::v1::snapshots::{
    CommitSnapshotRequest, PrepareSnapshotRequest, RemoveSnapshotRequest, StatSnapshotRequest,
};
use containerd_client::tonic::{Code, Status};

/// Label of a layer's blob with the digest of what is compressed in it.
pub const UNCOMPRESSED: &str = "containerd.io/uncompressed";

/// Unpacks an image for a snapshotter unless it is.
pub async fn ensure_unpacked(client: &Client, image: &Image, snapshotter: &str) -> Result<()> {
    if !is_unpacked(client, image, snapshotter).await? {
        unpack(client, image, snapshotter, false).await?;
    }
    Ok(())
}

/// Whether a snapshotter has all layers of an image.
pub async fn is_unpacked(client: &Client, image: &Image, snapshotter: &str) -> Result<bool> {
    let chain_id = image.chain_id();
    Ok(chain_id.is_empty() || exists(client, snapshotter, &chain_id).await?)
}

async fn exists(client: &Client, snapshotter: &str, key: &str) -> Result<bool> {
    let request = StatSnapshotRequest {
        snapshotter: snapshotter.to_owned(),
        key: key.to_owned(),
    };
    match client.snapshots().stat(client.request(request)).await {
        Ok(_) => Ok(true),
        Err(status) if status.code() == Code::NotFound => Ok(false),
        Err(status) => Err(status).with_context(|| format!("failed to stat snapshot {key}")),
    }
}

/// Unpacks an image, layer by layer, and makes its configuration keep the topmost snapshot.
pub async fn unpack(client: &Client, image: &Image, snapshotter: &str, sync_fs: bool) -> Result<()> {
    let lease = client.lease().await?;
    let done = unpack_leased(lease.client(), image, snapshotter, sync_fs).await;
    lease.release().await;
    done
}

async fn unpack_leased(client: &Client, image: &Image, snapshotter: &str, sync_fs: bool) -> Result<()> {
    let chain = chain_ids(&image.diff_ids);
    let mut parent = String::new();
    for ((layer, diff_id), chain_id) in image.layers.iter().zip(&image.diff_ids).zip(&chain) {
        if !exists(client, snapshotter, chain_id).await?
            && apply(client, snapshotter, &parent, layer, diff_id, chain_id, sync_fs).await?
        {
            store::set_labels(client, &layer.digest, [(UNCOMPRESSED.to_owned(), diff_id.clone())]).await?;
        }
        parent.clone_from(chain_id);
    }
    let label = format!("containerd.io/gc.ref.snapshot.{snapshotter}");
    store::set_labels(client, &image.config_descriptor.digest, [(label, parent)]).await?;
    Ok(())
}

/// Makes one layer's snapshot; `false` when somebody else made it first.
async fn apply(
    client: &Client,
    snapshotter: &str,
    parent: &str,
    layer: &Descriptor,
    diff_id: &str,
    chain_id: &str,
    sync_fs: bool,
) -> Result<bool> {
    let key = format!("extract-{} {chain_id}", unique_part());
    let request = PrepareSnapshotRequest {
        snapshotter: snapshotter.to_owned(),
        key: key.clone(),
        parent: parent.to_owned(),
        ..PrepareSnapshotRequest::default()
    };
    let mounts = match client.snapshots().prepare(client.request(request)).await {
        Ok(answer) => answer.into_inner().mounts,
        // A remote snapshotter says so when it has the layer already.
        Err(status) if status.code() == Code::AlreadyExists => return Ok(false),
        Err(status) => {
            return Err(status).with_context(|| format!("failed to prepare extraction snapshot {key:?}"));
        }
    };
    let applied = async {
        let request = ApplyRequest {
            diff: Some(layer.to_api()),
            mounts,
            sync_fs,
            ..ApplyRequest::default()
        };
        let answer = client.diff().apply(client.request(request)).await;
        let answer = answer
            .with_context(|| format!("failed to extract layer {diff_id}"))?
            .into_inner();
        let found = answer.applied.unwrap_or_default().digest;
        ensure!(
            found == diff_id,
            "wrong diff id calculated on extraction {found:?}: the image says {diff_id}"
        );
        let request = CommitSnapshotRequest {
            snapshotter: snapshotter.to_owned(),
            name: chain_id.to_owned(),
            key: key.clone(),
            ..CommitSnapshotRequest::default()
        };
        let committed = client.snapshots().commit(client.request(request)).await;
        committed.with_context(|| format!("failed to commit snapshot {key}"))?;
        Ok::<_, anyhow::Error>(())
    };
    match applied.await {
        Ok(()) => Ok(true),
        Err(error) => {
            let request = RemoveSnapshotRequest {
                snapshotter: snapshotter.to_owned(),
                key: key.clone(),
            };
            if let Err(status) = client.snapshots().remove(client.request(request)).await {
                client.debug(|| format!("extraction snapshot {key} stays for the collector: {status}"));
            }
            let exists = error
                .downcast_ref::<Status>()
                .is_some_and(|status| status.code() == Code::AlreadyExists);
            if exists { Ok(false) } else { Err(error) }
        }
    }
}
