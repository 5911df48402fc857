//! The Orlop microkernel: graph, loaders and servers
