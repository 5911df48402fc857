//! Moves images between archives, registries and the local stores
