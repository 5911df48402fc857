//! containerd's gRPC services over the contracts
