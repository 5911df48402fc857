//! The ends of a transfer, as clients name them.

use containerd_client::types::transfer::{ImageExportStream, ImageImportStream, ImageStore, OciRegistry};
use orlop_plugin::contract::Any;
use orlop_plugin::{Error, Result};
use prost::Message;

/// One end of a transfer.
#[derive(Debug)]
pub enum Endpoint {
    /// The images of the namespace.
    Store(ImageStore),
    /// An archive that comes from the client.
    Import(ImageImportStream),
    /// An archive that goes to the client.
    Export(ImageExportStream),
    /// An image in a registry.
    Registry(OciRegistry),
}

// === impl Endpoint ===

impl Endpoint {
    /// Reads one end. `Unimplemented` for a type that is not known, so that another plugin may be asked.
    pub fn decode(any: &Any) -> Result<Self> {
        let bytes = any.value.as_slice();
        let decoded = match any.type_url.rsplit('/').next().unwrap_or_default() {
            "containerd.types.transfer.ImageStore" => ImageStore::decode(bytes).map(Self::Store),
            "containerd.types.transfer.ImageImportStream" => ImageImportStream::decode(bytes).map(Self::Import),
            "containerd.types.transfer.ImageExportStream" => ImageExportStream::decode(bytes).map(Self::Export),
            "containerd.types.transfer.OCIRegistry" => OciRegistry::decode(bytes).map(Self::Registry),
            other => {
                return Err(Error::unimplemented(format!(
                    "nothing here transfers from or to {other:?}"
                )));
            }
        };
        decoded.map_err(|error| {
            Error::invalid_argument(format!("the {} of the transfer does not decode: {error}", any.type_url))
        })
    }

    /// What it is, in a sentence.
    pub fn describe(&self) -> String {
        match self {
            Self::Store(store) => format!("the image store ({})", store.name),
            Self::Import(_) => "an archive of the client".to_owned(),
            Self::Export(_) => "an archive for the client".to_owned(),
            Self::Registry(registry) => format!("a registry ({})", registry.reference),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use containerd_client::to_any;
    use orlop_plugin::contract::Code;

    #[test]
    fn ends_are_told_by_their_type() {
        let mut any = to_any(&ImageStore {
            name: "a".to_owned(),
            ..ImageStore::default()
        });
        assert!(matches!(Endpoint::decode(&any), Ok(Endpoint::Store(_))));
        any.type_url = format!("type.googleapis.com/{}", any.type_url);
        assert!(matches!(Endpoint::decode(&any), Ok(Endpoint::Store(_))));
        any.value = vec![0xff];
        assert_eq!(Endpoint::decode(&any).expect_err("garbage").code, Code::InvalidArgument);
        any.type_url = "acme.Tape".to_owned();
        assert_eq!(Endpoint::decode(&any).expect_err("unknown").code, Code::Unimplemented);
    }
}
