//! The plugin graph: from what is registered and what the configuration says, to an order of initialisation.
//!
//! [`resolve`] is pure. It either returns a [`Plan`] or every problem at once, so that an operator mends a configuration in one go.
//! Nothing here starts a plugin: that is [`crate::lifecycle`].

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;

use orlop_plugin::PluginUri;

/// What resolution needs to know of a registration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Type and id.
    pub uri: PluginUri,
    /// Types that come first; `*` for everything else.
    pub requires: Vec<String>,
    /// Where it comes from, as people would say it: `built in`, a path, a socket.
    pub source: String,
    /// Whether an entry of the configuration names this very source, so that it wins over others that claim its URI.
    pub pinned: bool,
}

/// What the configuration says about plugins.
pub struct Wishes<'a> {
    /// Whether a plugin is disabled.
    pub disabled: &'a dyn Fn(&PluginUri) -> bool,
    /// `required_plugins`, as written.
    pub required: &'a [String],
    /// Whether an entry of `required_plugins` means a plugin.
    pub names: &'a dyn Fn(&str, &PluginUri) -> bool,
}

/// An order in which plugins can start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Indices into the nodes; whatever one depends on stands before it.
    pub order: Vec<usize>,
    /// For each node, the nodes that must have been initialised before (transitive ones not repeated).
    pub dependencies: Vec<Vec<usize>>,
    /// For each node, whether the daemon cannot do without it.
    pub required: Vec<bool>,
    /// Nodes that are disabled or that a pinned source displaced: in no order.
    pub left_out: Vec<usize>,
}

/// One thing that is wrong with a graph.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Problem {
    /// Plugins that wait for each other; the first is repeated at the end.
    Cycle(Vec<PluginUri>),
    /// An entry of `required_plugins` that no registration answers.
    Missing(String),
    /// A plugin that is both disabled and required.
    DisabledButRequired {
        /// The plugin.
        uri: PluginUri,
        /// The entry of `required_plugins`.
        required: String,
    },
    /// A required plugin that can never find what it requires, because all of that is disabled.
    NeedsDisabled {
        /// The required plugin.
        uri: PluginUri,
        /// The disabled one.
        disabled: PluginUri,
    },
    /// Several sources for one URI.
    Duplicate {
        /// The URI.
        uri: PluginUri,
        /// All sources.
        sources: Vec<String>,
    },
}

/// Every problem of a graph.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problems(pub Vec<Problem>);

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cycle(uris) => {
                let chain: Vec<_> = uris.iter().map(ToString::to_string).collect();
                write!(f, "plugins wait for each other: {}", chain.join(" -> "))
            }
            Self::Missing(required) => {
                write!(
                    f,
                    "required_plugins names {required:?}, which is neither built in nor found in plugin_dir"
                )
            }
            Self::DisabledButRequired { uri, required } => {
                write!(
                    f,
                    "{uri} is in disabled_plugins, and {required:?} in required_plugins: remove one of them"
                )
            }
            Self::NeedsDisabled { uri, disabled } => {
                write!(
                    f,
                    "{uri} is in required_plugins and needs {disabled}, which is in disabled_plugins"
                )
            }
            Self::Duplicate { uri, sources } => write!(
                f,
                "{uri} is claimed by {}: remove one, or name the right one in [dynamic_plugins]",
                sources.join(" and by ")
            ),
        }
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<_> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&lines.join("\n"))
    }
}

impl std::error::Error for Problems {}

/// Resolves a graph: the order, or every problem.
pub fn resolve(nodes: &[Node], wishes: &Wishes<'_>) -> Result<Plan, Problems> {
    let mut problems = Vec::new();
    let chosen = choose(nodes, wishes, &mut problems);
    let required = require(nodes, wishes, &mut problems);
    let dependencies = connect(nodes, &chosen);
    needs_disabled(nodes, wishes, &required, &mut problems);
    let order = sort(nodes, &chosen, &dependencies, &mut problems);
    if problems.is_empty() {
        let left_out = (0..nodes.len()).filter(|node| !chosen[*node]).collect();
        Ok(Plan {
            order,
            dependencies,
            required,
            left_out,
        })
    } else {
        Err(Problems(problems))
    }
}

/// Who takes part: not the disabled, and one for each URI.
fn choose(nodes: &[Node], wishes: &Wishes<'_>, problems: &mut Vec<Problem>) -> Vec<bool> {
    let mut chosen = vec![false; nodes.len()];
    let mut claims: BTreeMap<&PluginUri, Vec<usize>> = BTreeMap::new();
    for (index, node) in nodes.iter().enumerate() {
        if !(wishes.disabled)(&node.uri) {
            claims.entry(&node.uri).or_default().push(index);
        }
    }
    for (uri, mut claimants) in claims {
        if claimants.iter().any(|node| nodes[*node].pinned) {
            claimants.retain(|node| nodes[*node].pinned);
        }
        if let [only] = claimants[..] {
            chosen[only] = true;
        } else {
            let sources = claimants.iter().map(|node| nodes[*node].source.clone()).collect();
            problems.push(Problem::Duplicate {
                uri: uri.clone(),
                sources,
            });
        }
    }
    chosen
}

/// Which nodes the configuration insists on.
fn require(nodes: &[Node], wishes: &Wishes<'_>, problems: &mut Vec<Problem>) -> Vec<bool> {
    let mut required = vec![false; nodes.len()];
    for entry in wishes.required {
        let mut found = false;
        for (index, node) in nodes
            .iter()
            .enumerate()
            .filter(|(_, node)| (wishes.names)(entry, &node.uri))
        {
            found = true;
            required[index] = true;
            if (wishes.disabled)(&node.uri) {
                problems.push(Problem::DisabledButRequired {
                    uri: node.uri.clone(),
                    required: entry.clone(),
                });
            }
        }
        if !found {
            problems.push(Problem::Missing(entry.clone()));
        }
    }
    required
}

fn waits_for(node: &Node, other: &Node) -> bool {
    let wildcard = |node: &Node| node.requires.iter().any(|kind| kind == "*");
    node.uri != other.uri
        && (node.requires.contains(&other.uri.kind)
            // Two that wait for everything else do not wait for each other.
            || (wildcard(node) && !wildcard(other) && !other.requires.contains(&node.uri.kind)))
}

fn connect(nodes: &[Node], chosen: &[bool]) -> Vec<Vec<usize>> {
    let others = |node: usize| {
        (0..nodes.len()).filter(move |other| chosen[node] && chosen[*other] && waits_for(&nodes[node], &nodes[*other]))
    };
    (0..nodes.len()).map(|node| others(node).collect()).collect()
}

/// A required plugin whose required type has only disabled plugins can never work.
fn needs_disabled(nodes: &[Node], wishes: &Wishes<'_>, required: &[bool], problems: &mut Vec<Problem>) {
    for (node, _) in nodes.iter().zip(required).filter(|(_, required)| **required) {
        for kind in &node.requires {
            let of_kind = || {
                nodes
                    .iter()
                    .filter(|other| other.uri.kind == *kind && other.uri != node.uri)
            };
            if of_kind().all(|other| (wishes.disabled)(&other.uri)) {
                problems.extend(of_kind().map(|other| Problem::NeedsDisabled {
                    uri: node.uri.clone(),
                    disabled: other.uri.clone(),
                }));
            }
        }
    }
}

/// Depth first, in the order of registration; a node met again on its own path closes a cycle.
fn sort(nodes: &[Node], chosen: &[bool], dependencies: &[Vec<usize>], problems: &mut Vec<Problem>) -> Vec<usize> {
    #[derive(Clone, Copy, PartialEq)]
    enum Mark {
        New,
        OnPath,
        Done,
    }
    struct Walk<'a> {
        nodes: &'a [Node],
        dependencies: &'a [Vec<usize>],
        marks: Vec<Mark>,
        path: Vec<usize>,
        order: Vec<usize>,
    }
    impl Walk<'_> {
        fn visit(&mut self, node: usize, problems: &mut Vec<Problem>) {
            match self.marks[node] {
                Mark::Done => return,
                Mark::OnPath => {
                    let start = self
                        .path
                        .iter()
                        .position(|on_path| *on_path == node)
                        .unwrap_or_default();
                    let mut cycle: Vec<_> = self.path[start..]
                        .iter()
                        .map(|node| self.nodes[*node].uri.clone())
                        .collect();
                    cycle.push(self.nodes[node].uri.clone());
                    problems.push(Problem::Cycle(cycle));
                    return;
                }
                Mark::New => {}
            }
            self.marks[node] = Mark::OnPath;
            self.path.push(node);
            for dependency in &self.dependencies[node] {
                self.visit(*dependency, problems);
            }
            self.path.pop();
            self.marks[node] = Mark::Done;
            self.order.push(node);
        }
    }
    let mut walk = Walk {
        nodes,
        dependencies,
        marks: vec![Mark::New; nodes.len()],
        path: Vec::new(),
        order: Vec::new(),
    };
    for node in (0..nodes.len()).filter(|node| chosen[*node]) {
        walk.visit(node, problems);
    }
    walk.order
}
