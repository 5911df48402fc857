//! `containerd.runc.v1.Options`: what containerd's runc shim takes as runtime options.

use prost::Message;

/// Type URL of [`RuncOptions`], as containerd writes it: without a host.
pub const RUNC_OPTIONS_URL: &str = "containerd.runc.v1.Options";

/// Field numbers are those of containerd's `api/types/runc/options/oci.proto`.
#[derive(Clone, PartialEq, Message)]
pub struct RuncOptions {
    /// Do not use `pivot_root`.
    #[prost(bool, tag = "1")]
    pub no_pivot_root: bool,
    /// Do not make a new session keyring.
    #[prost(bool, tag = "2")]
    pub no_new_keyring: bool,
    /// Control group for the shim itself.
    #[prost(string, tag = "3")]
    pub shim_cgroup: String,
    /// Owner of the stdio pipes.
    #[prost(uint32, tag = "4")]
    pub io_uid: u32,
    /// Group of the stdio pipes.
    #[prost(uint32, tag = "5")]
    pub io_gid: u32,
    /// The runtime's binary.
    #[prost(string, tag = "6")]
    pub binary_name: String,
    /// The runtime's state directory.
    #[prost(string, tag = "7")]
    pub root: String,
    /// Let systemd manage control groups.
    #[prost(bool, tag = "9")]
    pub systemd_cgroup: bool,
    /// CRIU's images.
    #[prost(string, tag = "10")]
    pub criu_image_path: String,
    /// CRIU's working directory.
    #[prost(string, tag = "11")]
    pub criu_work_path: String,
}

impl RuncOptions {
    /// As the API carries it.
    pub fn to_any(&self) -> prost_types::Any {
        prost_types::Any {
            type_url: RUNC_OPTIONS_URL.to_owned(),
            value: self.encode_to_vec(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_have_containerds_field_numbers() {
        let options = RuncOptions {
            binary_name: "crun".into(),
            systemd_cgroup: true,
            ..RuncOptions::default()
        };
        // Field 6 (length-delimited) and field 9 (varint), by the wire format.
        assert_eq!(options.to_any().value, [0x32, 4, b'c', b'r', b'u', b'n', 0x48, 1]);
    }
}
