//! From flags, an image's configuration and the users of its root file system to a specification.
//!
//! The steps stand in the order in which containerd's client applies them, because later ones see what earlier ones
//! set: the image's environment is overridden by `--env`, `--privileged` comes before `--cap-drop`, and so on.

use super::caps::check_names;
use super::default::{DEFAULT_PATH, default_device_rules, default_spec};
use super::flags::{RunFlags, SpecFlags};
use super::image::ImageConfig;
use super::model::*;
use super::users::Users;
use super::{device, host, parse, seccomp};
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::path::Path;

/// What the root file system is made of.
#[derive(Debug, Clone, Copy)]
pub enum Rootfs<'a> {
    /// An image; the runtime finds its snapshot mounted at `rootfs` in the bundle.
    Image(&'a ImageConfig),
    /// A directory of the host, absolute.
    Path(&'a str),
}

/// Everything a specification is made from.
#[derive(Debug)]
pub struct Request<'a> {
    /// containerd namespace, part of the control group's path.
    pub namespace: &'a str,
    /// Container id.
    pub id: &'a str,
    /// Flags of `run` and `containers create`.
    pub flags: &'a SpecFlags,
    /// Flags of `run`; defaults for `containers create`.
    pub run: &'a RunFlags,
    /// Root file system.
    pub rootfs: Rootfs<'a>,
    /// Command line; empty takes the image's.
    pub args: &'a [String],
    /// Users and groups of the root file system.
    pub users: &'a Users,
}

/// Builds the specification. Errors name the flag's value that is wrong; what this client cannot do is refused, never
/// ignored.
pub fn build(request: &Request) -> Result<Spec> {
    let Request { flags, run, .. } = *request;
    refuse_unsupported(flags)?;
    let mut spec = default_spec(request.namespace, request.id);
    spec.linux.resources.devices.extend(default_device_rules());
    environment(&mut spec, flags)?;
    mounts(&mut spec, flags)?;
    match request.rootfs {
        Rootfs::Image(config) => image(&mut spec, config, request.users)?,
        Rootfs::Path(path) => path.clone_into(&mut spec.root.path),
    }
    id_mappings(&mut spec, run)?;
    spec.root.readonly = flags.read_only;
    process(&mut spec, request)?;
    privileged(&mut spec, flags, run)?;
    if flags.net_host {
        host_network(&mut spec)?;
    }
    spec.annotations.extend(parse::annotations(&flags.annotation)?);
    confinement(&mut spec, flags)?;
    resources(&mut spec, flags, run)?;
    for text in &flags.with_ns {
        join(&mut spec.linux.namespaces, parse::namespace(text)?);
    }
    if flags.allow_new_privs {
        spec.process.no_new_privileges = false;
    }
    if let Some(path) = &run.cgroup {
        path.clone_into(&mut spec.linux.cgroups_path);
    }
    for path in &flags.device {
        let found = device::devices(path)?;
        spec.linux.resources.devices.extend(found.iter().map(Device::rule));
        spec.linux.devices.extend(found);
    }
    spec.linux.rootfs_propagation = flags.rootfs_propagation.clone().unwrap_or_default();
    spec.linux.intel_rdt = flags
        .rdt_class
        .clone()
        .filter(|c| !c.is_empty())
        .map(|clos_id| IntelRdt { clos_id });
    spec.hostname = flags.hostname.clone().unwrap_or_default();
    spec.annotations.extend(parse::labels(&flags.label));
    Ok(spec)
}

/// Reads a whole specification from `--config`; labels become annotations of it, as they do of a generated one.
pub fn from_file(path: &Path, labels: &[String]) -> Result<Value> {
    let bytes = std::fs::read(path).with_context(|| format!("cannot load spec config file {}", path.display()))?;
    let mut spec: Value = serde_json::from_slice(&bytes)
        .with_context(|| format!("decoding spec config file {} failed", path.display()))?;
    let members = spec
        .as_object_mut()
        .with_context(|| format!("{} is not a JSON object", path.display()))?;
    if !labels.is_empty() {
        let annotations = members
            .entry("annotations")
            .or_insert_with(|| Value::Object(serde_json::Map::new()));
        let annotations = annotations
            .as_object_mut()
            .with_context(|| format!("annotations of {} is no object", path.display()))?;
        annotations.extend(
            parse::labels(labels)
                .into_iter()
                .map(|(key, value)| (key, Value::String(value))),
        );
    }
    Ok(spec)
}

fn refuse_unsupported(flags: &SpecFlags) -> Result<()> {
    ensure!(
        flags.gpus.is_empty(),
        "--gpus needs NVIDIA's hook, which this client does not set up: use --device"
    );
    ensure!(
        flags.blockio_class.is_none() && flags.blockio_config_file.is_none(),
        "--blockio-class is not supported by this client: write linux.resources.blockIO into a file for --config"
    );
    ensure!(
        flags.apparmor_default_profile.is_none(),
        "--apparmor-default-profile is not supported by this client: load a profile and name it with --apparmor-profile"
    );
    Ok(())
}

fn environment(spec: &mut Spec, flags: &SpecFlags) -> Result<()> {
    if let Some(path) = &flags.env_file {
        let text =
            std::fs::read_to_string(path).with_context(|| format!("cannot read --env-file {}", path.display()))?;
        let variables: Vec<String> = text.lines().map(str::to_owned).collect();
        spec.process.env = parse::override_env(&spec.process.env, &variables);
    }
    spec.process.env = parse::override_env(&spec.process.env, &flags.env);
    Ok(())
}

fn mounts(spec: &mut Spec, flags: &SpecFlags) -> Result<()> {
    let added = flags
        .mount
        .iter()
        .map(|text| parse::mount(text))
        .collect::<Result<Vec<_>>>()?;
    // A mount over a default one replaces it: two at one place would leave the first mounted underneath.
    spec.mounts
        .retain(|held| !added.iter().any(|new| same_path(&held.destination, &new.destination)));
    spec.mounts.extend(added);
    Ok(())
}

fn same_path(a: &str, b: &str) -> bool {
    Path::new(a).components().eq(Path::new(b).components())
}

fn image(spec: &mut Spec, config: &ImageConfig, users: &Users) -> Result<()> {
    let process = &mut spec.process;
    let default = [DEFAULT_PATH.to_owned()];
    let defaults = if config.env.is_empty() {
        &default[..]
    } else {
        &config.env
    };
    process.env = parse::override_env(defaults, &process.env);
    process.args = [&config.entrypoint[..], &config.cmd].concat();
    if !config.working_dir.is_empty() {
        config.working_dir.clone_into(&mut process.cwd);
    }
    let user = if config.user.is_empty() {
        // Even without a user, the image's /etc/group may put root into groups.
        "root".to_owned()
    } else {
        process.user = users
            .identity(&config.user)
            .context("the user of the image's configuration")?;
        process.user.uid.to_string()
    };
    process.user.additional_gids = users.additional_gids(&user, process.user.gid)?;
    Ok(())
}

fn id_mappings(spec: &mut Spec, run: &RunFlags) -> Result<()> {
    if run.uidmap.is_empty() && run.gidmap.is_empty() {
        return Ok(());
    }
    ensure!(
        !run.uidmap.is_empty() && !run.gidmap.is_empty(),
        "--uidmap and --gidmap must be given together"
    );
    let mappings = |list: &[String]| {
        list.iter()
            .map(|text| parse::id_mapping(text))
            .collect::<Result<Vec<_>>>()
    };
    spec.linux.uid_mappings = mappings(&run.uidmap)?;
    spec.linux.gid_mappings = mappings(&run.gidmap)?;
    spec.linux.namespaces.push(Namespace {
        kind: "user".to_owned(),
        path: String::new(),
    });
    Ok(())
}

fn process(spec: &mut Spec, request: &Request) -> Result<()> {
    let process = &mut spec.process;
    if !request.args.is_empty() {
        process.args = request.args.to_vec();
    }
    ensure!(
        !process.args.is_empty(),
        "no command: the image has none, give one after the container's id"
    );
    if let Some(cwd) = request.flags.cwd.as_ref().filter(|cwd| !cwd.is_empty()) {
        process.cwd.clone_from(cwd);
    }
    if let Some(user) = request.flags.user.as_ref().filter(|user| !user.is_empty()) {
        process.user = request.users.identity(user).with_context(|| format!("--user {user}"))?;
        process.user.additional_gids = request.users.additional_gids(user, process.user.gid)?;
    }
    if request.flags.tty {
        process.terminal = true;
        process.env.push("TERM=xterm".to_owned());
    }
    if let Some(limit) = &request.run.rlimit_nofile {
        let (soft, hard) = parse::rlimit(limit).context("--rlimit-nofile")?;
        process.rlimits.retain(|held| held.kind != "RLIMIT_NOFILE");
        process.rlimits.push(Rlimit {
            kind: "RLIMIT_NOFILE".to_owned(),
            hard,
            soft,
        });
    }
    Ok(())
}

fn privileged(spec: &mut Spec, flags: &SpecFlags, run: &RunFlags) -> Result<()> {
    if !flags.privileged {
        ensure!(
            !run.privileged_without_host_devices,
            "can't use 'privileged-without-host-devices' without 'privileged' specified"
        );
        return Ok(());
    }
    spec.process.capabilities.set(&host::effective_capabilities()?);
    spec.linux.masked_paths.clear();
    spec.linux.readonly_paths.clear();
    for mount in spec
        .mounts
        .iter_mut()
        .filter(|mount| mount.kind == "sysfs" || mount.kind == "cgroup")
    {
        for option in mount.options.iter_mut().filter(|option| *option == "ro") {
            "rw".clone_into(option);
        }
    }
    if !run.privileged_without_host_devices {
        spec.linux.resources.devices = vec![DeviceRule {
            allow: true,
            access: "rwm".to_owned(),
            ..DeviceRule::default()
        }];
        spec.linux.devices = device::devices(Path::new("/dev"))?;
    }
    Ok(())
}

fn host_network(spec: &mut Spec) -> Result<()> {
    spec.linux.namespaces.retain(|namespace| namespace.kind != "network");
    for file in ["/etc/hosts", "/etc/resolv.conf"] {
        spec.mounts.push(Mount {
            destination: file.to_owned(),
            kind: "bind".to_owned(),
            source: file.to_owned(),
            options: vec!["rbind".to_owned(), "ro".to_owned()],
        });
    }
    spec.process.env = parse::override_env(&spec.process.env, &[format!("HOSTNAME={}", host::hostname()?)]);
    Ok(())
}

fn confinement(spec: &mut Spec, flags: &SpecFlags) -> Result<()> {
    check_names(&flags.cap_add)?;
    check_names(&flags.cap_drop)?;
    spec.process.capabilities.add(&flags.cap_add);
    spec.process.capabilities.drop(&flags.cap_drop);
    spec.linux.seccomp = match (flags.seccomp, &flags.seccomp_profile) {
        (false, None) => None,
        (false, Some(_)) => bail!("seccomp must be set to true, if using a custom seccomp-profile"),
        (true, Some(path)) => Some(seccomp::profile_from_file(path)?),
        (true, None) => Some(seccomp::default_profile(&spec.process.capabilities.bounding)),
    };
    spec.process.apparmor_profile = flags.apparmor_profile.clone().unwrap_or_default();
    Ok(())
}

fn resources(spec: &mut Spec, flags: &SpecFlags, run: &RunFlags) -> Result<()> {
    const PERIOD: u64 = 100_000;
    let mut cpu = Cpu {
        shares: (run.cpu_shares > 0).then_some(run.cpu_shares),
        cpus: run.cpuset_cpus.clone().unwrap_or_default(),
        mems: run.cpuset_mems.clone().unwrap_or_default(),
        ..Cpu::default()
    };
    let quota = flags.cpu_quota.unwrap_or(-1);
    if run.cpus > 0.0 {
        ensure!(
            quota == -1 && flags.cpu_period == 0,
            "cpus and quota/period should be used separately"
        );
        cpu.quota = Some((run.cpus * PERIOD as f64) as i64);
        cpu.period = Some(PERIOD);
    } else if quota != -1 || flags.cpu_period != 0 {
        cpu.quota = Some(quota);
        cpu.period = Some(flags.cpu_period);
    }
    let resources = &mut spec.linux.resources;
    resources.cpu = (cpu != Cpu::default()).then_some(cpu);
    if flags.memory_limit != 0 {
        let limit = i64::try_from(flags.memory_limit).context("--memory-limit is too large")?;
        resources.memory = Some(Memory { limit: Some(limit) });
    }
    Ok(())
}

fn join(namespaces: &mut Vec<Namespace>, joined: Namespace) {
    match namespaces.iter_mut().find(|held| held.kind == joined.kind) {
        Some(held) => *held = joined,
        None => namespaces.push(joined),
    }
}
