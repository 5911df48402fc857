//! Header maps across the ABI: names as strings, values as bytes, in order.

use abi_stable::std_types::{RString, RVec, Tuple2};
use http::{HeaderMap, HeaderName, HeaderValue};

pub(super) type RHeaders = RVec<Tuple2<RString, RVec<u8>>>;

pub(super) fn to_abi(headers: &HeaderMap) -> RHeaders {
    headers
        .iter()
        .map(|(name, value)| Tuple2(name.as_str().into(), value.as_bytes().to_vec().into()))
        .collect()
}

/// What is no header is left out: the other side made it out of a `HeaderMap`, so there is none unless it is broken.
pub(super) fn from_abi(headers: RHeaders) -> HeaderMap {
    let mut map = HeaderMap::with_capacity(headers.len());
    for Tuple2(name, value) in headers {
        if let (Ok(name), Ok(value)) = (
            HeaderName::from_bytes(name.as_bytes()),
            HeaderValue::from_maybe_shared(bytes::Bytes::from(value.into_vec())),
        ) {
            map.append(name, value);
        }
    }
    map
}
