//! The ABI between the daemon and a library, version 1: two gRPC channels are swapped, nothing else.
//!
//! Frozen. `abi_stable` compares the layout of everything reachable from [`PluginV1`] when a library is opened; a change here is a new
//! module `v2` beside this one, and the daemon then tries the newest version a library offers.

// Everything here is `#[repr(C)]` plumbing that the derive macros of `abi_stable` write `unsafe` for.
#![allow(
    unsafe_code,
    clippy::undocumented_unsafe_blocks,
    missing_docs,
    non_camel_case_types,
    non_local_definitions,
    clippy::pedantic
)]

use abi_stable::StableAbi;
use abi_stable::library::RootModule;
use abi_stable::sabi_trait;
use abi_stable::sabi_types::VersionStrings;
use abi_stable::std_types::{RBox, ROption, RResult, RString, RVec, Tuple2};
use async_ffi::{FfiContext, FfiFuture, FfiPoll};

/// The number of this version, as the ELF note of a library says it.
pub const VERSION: u32 = 1;

/// One end of a call without its body.
#[repr(C)]
#[derive(StableAbi)]
pub struct Head {
    /// The gRPC path in a request, empty in a response.
    pub path: RString,
    /// The HTTP status in a response, 0 in a request.
    pub status: u16,
    pub headers: RVec<Tuple2<RString, RVec<u8>>>,
}

/// A piece of a body.
#[repr(u8)]
#[derive(StableAbi)]
pub enum Frame {
    Data(RVec<u8>),
    Trailers(RVec<Tuple2<RString, RVec<u8>>>),
}

/// Why a body broke off.
#[repr(C)]
#[derive(StableAbi)]
pub struct Broken {
    /// A gRPC code.
    pub code: i32,
    pub message: RString,
}

/// A body that is polled, frame by frame. Never panics: a panic behind it is a [`Broken`].
#[sabi_trait]
pub trait BodyV1: Send + 'static {
    fn poll_frame(&mut self, cx: &mut FfiContext<'_>) -> FfiPoll<ROption<RResult<Frame, Broken>>>;
}

pub type BodyBox = BodyV1_TO<RBox<()>>;

/// A request or a response.
#[repr(C)]
#[derive(StableAbi)]
pub struct Message {
    pub head: Head,
    pub body: BodyBox,
}

/// The far end of a channel. Dropping the future or the response's body cancels the call.
#[sabi_trait]
pub trait ChannelV1: Send + Sync + 'static {
    fn call(&self, request: Message) -> FfiFuture<RResult<Message, Broken>>;
}

pub type ChannelBox = ChannelV1_TO<RBox<()>>;

/// What a library exports.
#[repr(C)]
#[derive(StableAbi)]
#[sabi(kind(Prefix(prefix_ref = PluginV1_Ref)))]
#[sabi(missing_field(panic))]
pub struct PluginV1 {
    /// Takes the way to the daemon, gives the way to the library's plugins. Called once. Never panics.
    #[sabi(last_prefix_field)]
    pub connect: extern "C" fn(host: ChannelBox) -> RResult<ChannelBox, RString>,
}

impl RootModule for PluginV1_Ref {
    abi_stable::declare_root_module_statics! {PluginV1_Ref}
    const BASE_NAME: &'static str = "orlop_plugin";
    const NAME: &'static str = "orlop_plugin";
    // The version of this ABI, not of the crate: a library built with a later SDK still speaks version 1.
    const VERSION_STRINGS: VersionStrings = VersionStrings {
        version: abi_stable::std_types::RStr::from_str("1.0.0"),
    };
}
