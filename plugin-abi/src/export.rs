//! What a dynamic plugin ends in.

// The macros below expand to exported statics in a plugin's crate: a small, named place for `unsafe`.
#![allow(unsafe_code)]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::OnceLock;

use abi_stable::library::{CheckTypeLayout, LibHeader, RootModuleResult};
use abi_stable::prefix_type::PrefixTypeTrait;
use abi_stable::std_types::{RErr, ROk, RResult, RString};

use crate::channel::v1::{ChannelBox, PluginV1, PluginV1_Ref};
use crate::{Registration, library, panic_message};

/// Makes a crate (`crate-type = ["cdylib"]`) a plugin library of the registrations that a function returns.
///
/// ```ignore
/// pub fn registrations() -> Vec<orlop_plugin::Registration> { … }
/// orlop_plugin::export_plugin!(registrations, "io.containerd.snapshotter.v1.acme");
/// ```
///
/// The URIs go into the library's ELF note, where the daemon reads them before it opens the file; without them it has to open the
/// file to know what is in it. A binary can link only one crate that exports, because the exported symbol has one name.
#[macro_export]
macro_rules! export_plugin {
    ($registrations:path $(, $uri:literal)* $(,)?) => {
        const _: () = {
            const URIS: &[&str] = &[$($uri),*];
            #[used]
            #[unsafe(link_section = ".note.orlop")]
            static ORLOP_NOTE: $crate::export::Aligned<{ $crate::channel::note::length(URIS) }> =
                $crate::export::Aligned($crate::channel::note::build(URIS));

            extern "C" fn root_module() -> $crate::export::RootModule {
                $crate::export::root_module($registrations)
            }

            // The name abi_stable looks for.
            #[unsafe(export_name = "_1as_0lib_1header_0root_bmodule_bloader")]
            pub static ORLOP_ROOT: $crate::export::Header = $crate::export::header(root_module);
        };
    };
}

/// A note must start at a multiple of four.
#[repr(C, align(4))]
pub struct Aligned<const N: usize>(pub [u8; N]);

/// What the exported symbol is.
pub type Header = LibHeader;
/// What its constructor returns.
pub type RootModule = RootModuleResult;

/// Built by [`export_plugin!`].
pub const fn header(constructor: extern "C" fn() -> RootModuleResult) -> LibHeader {
    // SAFETY: `root_module`, the only function that ends up here, returns an erased `PluginV1_Ref`.
    unsafe { LibHeader::from_constructor::<PluginV1_Ref>(constructor, CheckTypeLayout::Yes) }
}

static REGISTRATIONS: OnceLock<fn() -> Vec<Registration>> = OnceLock::new();

/// Called by `abi_stable` once, after the layouts were compared.
pub fn root_module(registrations: fn() -> Vec<Registration>) -> RootModuleResult {
    let _ = REGISTRATIONS.set(registrations);
    abi_stable::library::__call_root_module_loader(|| PluginV1 { connect }.leak_into_prefix())
}

/// The one exported function. abi_stable ends the process when such a function panics, so nothing in it may.
extern "C" fn connect(host: ChannelBox) -> RResult<ChannelBox, RString> {
    let connected = catch_unwind(AssertUnwindSafe(|| {
        let registrations = REGISTRATIONS.get().ok_or("the root module was not asked for first")?;
        library::start(host, registrations()).map_err(|error| error.to_string())
    }));
    match connected {
        Ok(Ok(channel)) => ROk(channel),
        Ok(Err(error)) => RErr(error.into()),
        Err(panic) => RErr(format!("it panicked: {}", panic_message(&*panic)).into()),
    }
}
