//! The users and groups of a root file system: `/etc/passwd` and `/etc/group` as values, and the look-ups of containerd.
//!
//! Reading the files is [`super::rootfs`]'s matter. A file that does not exist is `None`: a numeric user is then taken
//! as it is, a name is an error.

use super::model::User;
use anyhow::{Context, Result, bail, ensure};

/// Largest id that is accepted. Larger ones wrap around in 32-bit signed readers, down to root (CVE-2024-40635).
const MAX_ID: i64 = i32::MAX as i64;

/// The two databases.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Users {
    /// Entries of `/etc/passwd`.
    pub passwd: Option<Vec<PasswdEntry>>,
    /// Entries of `/etc/group`.
    pub group: Option<Vec<GroupEntry>>,
}

/// A user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PasswdEntry {
    /// Login name.
    pub name: String,
    /// User id.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
}

/// A group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupEntry {
    /// Name.
    pub name: String,
    /// Group id.
    pub gid: u32,
    /// Names of the users that have it as a supplementary group.
    pub members: Vec<String>,
}

/// Reads passwd(5). Lines that are empty, comments or malformed are passed over, as libc does.
pub fn parse_passwd(text: &str) -> Vec<PasswdEntry> {
    lines(text)
        .filter_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?.to_owned();
            let mut numbers = fields.skip(1);
            Some(PasswdEntry {
                name,
                uid: numbers.next()?.parse().ok()?,
                gid: numbers.next()?.parse().ok()?,
            })
        })
        .collect()
}

/// Reads group(5), with the same tolerance.
pub fn parse_group(text: &str) -> Vec<GroupEntry> {
    lines(text)
        .filter_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?.to_owned();
            let gid = fields.nth(1)?.parse().ok()?;
            let members = fields
                .next()
                .unwrap_or("")
                .split(',')
                .filter(|m| !m.is_empty())
                .map(str::to_owned)
                .collect();
            Some(GroupEntry { name, gid, members })
        })
        .collect()
}

fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
}

/// A user or group as it is written: a number, or a name.
enum Name<'a> {
    Id(u32),
    Name(&'a str),
}

impl<'a> Name<'a> {
    fn parse(text: &'a str) -> Result<Self> {
        if !text.is_empty()
            && text
                .strip_prefix(['-', '+'])
                .unwrap_or(text)
                .bytes()
                .all(|b| b.is_ascii_digit())
        {
            let id = text.parse::<i64>().ok().filter(|id| (0..=MAX_ID).contains(id));
            let id = id.with_context(|| format!("invalid id {text}: uids and gids must be in range 0-{MAX_ID}"))?;
            return Ok(Self::Id(u32::try_from(id)?));
        }
        Ok(Self::Name(text))
    }
}

impl Users {
    /// The identity that `USER[:GROUP]` names, each a name or a number, with the primary group as the only
    /// supplementary one.
    pub fn identity(&self, text: &str) -> Result<User> {
        let (uid, gid) = match text.split(':').collect::<Vec<_>>()[..] {
            [user] => match Name::parse(user)? {
                Name::Id(uid) => (uid, self.by_id(uid).map_or(0, |entry| entry.gid)),
                Name::Name(name) => self.by_name(name).map(|entry| (entry.uid, entry.gid))?,
            },
            [user, group] => {
                let uid = match Name::parse(user)? {
                    Name::Id(uid) => uid,
                    Name::Name(name) => self.by_name(name)?.uid,
                };
                let gid = match Name::parse(group)? {
                    Name::Id(gid) => gid,
                    Name::Name(name) => self.group_id(name)?,
                };
                (uid, gid)
            }
            _ => bail!("invalid USER value {text}: expected USER or USER:GROUP"),
        };
        ensure!(
            i64::from(uid) <= MAX_ID && i64::from(gid) <= MAX_ID,
            "uids and gids must be in range 0-{MAX_ID}"
        );
        Ok(User {
            uid,
            gid,
            additional_gids: vec![gid],
        })
    }

    /// The supplementary groups of a user (a name or a uid), after the primary group `gid`. A group named as the user is
    /// not counted, and a user that is not in the database has none.
    pub fn additional_gids(&self, user: &str, gid: u32) -> Result<Vec<u32>> {
        let name = match Name::parse(user)? {
            Name::Id(uid) => self.by_id(uid).map(|entry| entry.name.as_str()),
            Name::Name(name) => Some(name),
        };
        let mut gids = Vec::new();
        if let Some(name) = name {
            let groups = self.group.iter().flatten();
            gids.extend(
                groups
                    .filter(|g| g.name != name && g.members.iter().any(|m| m == name))
                    .map(|g| g.gid),
            );
        }
        if !gids.contains(&gid) {
            gids.insert(0, gid);
        }
        Ok(gids)
    }

    fn by_id(&self, uid: u32) -> Option<&PasswdEntry> {
        self.passwd.iter().flatten().find(|entry| entry.uid == uid)
    }

    fn by_name(&self, name: &str) -> Result<&PasswdEntry> {
        let passwd = self
            .passwd
            .as_ref()
            .with_context(|| format!("user {name:?}: the rootfs has no /etc/passwd"))?;
        passwd
            .iter()
            .find(|entry| entry.name == name)
            .with_context(|| format!("no users found: {name:?} is not in the rootfs's /etc/passwd"))
    }

    fn group_id(&self, name: &str) -> Result<u32> {
        let groups = self
            .group
            .as_ref()
            .with_context(|| format!("group {name:?}: the rootfs has no /etc/group"))?;
        let group = groups.iter().find(|entry| entry.name == name);
        Ok(group
            .with_context(|| format!("no groups found: {name:?} is not in the rootfs's /etc/group"))?
            .gid)
    }
}
