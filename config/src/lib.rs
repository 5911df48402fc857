//! containerd configuration: schema, versions, merging, checking and rendering
