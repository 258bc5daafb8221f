//! What a capture no longer needs once it is open: to be root in any of the three ways, and every capability.

use std::{ffi::CString, io};

use rustix::{
    process::{Gid, Uid, getegid, geteuid},
    thread::{
        CapabilitySet, CapabilitySets, capabilities, set_capabilities, set_no_new_privs, set_thread_groups,
        set_thread_res_gid, set_thread_res_uid,
    },
};

/// Why privileges could not be dropped. The capture does not go on then.
#[derive(Debug, thiserror::Error)]
pub enum PrivilegeError {
    /// There is no such user.
    #[error("no user `{0}`; another one: --user NAME")]
    NoUser(String),
    /// Only root can become another.
    #[error("only root can become `{0}`: without --user it stays who it is")]
    NotRoot(String),
    /// The system refused.
    #[error("dropping privileges: {step}: {why}")]
    Refused {
        /// What was refused.
        step: &'static str,
        /// What it says.
        why: io::Error,
    },
    /// The system agreed, and it did not happen.
    #[error("dropping privileges: some are left")]
    Left,
}

/// Whether this process may do more than its user: as root, as one that can become root again, or by a capability.
///
/// # Errors
/// If the system does not say.
pub fn any() -> Result<bool, PrivilegeError> {
    let [real, effective, saved] = uids()?;
    let held = capabilities(None).map_err(refused("capget"))?;
    let held = held.effective | held.permitted;
    Ok([real, effective, saved].iter().any(|uid| uid.is_root()) || !held.is_empty())
}

/// Gives up all privileges for good, as that user if this is root ([`USER_DEFAULT`] if none is named); says who it is now.
///
/// Only threads that start later are without them: call it before there are any.
///
/// # Errors
/// If any could not be given up.
pub fn drop_all(user: Option<&str>) -> Result<Uid, PrivilegeError> {
    let root = geteuid().is_root();
    let (uid, gid) = match user {
        Some(name) => {
            let found = find(name)?;
            match root {
                true => found,
                false if found.0 == geteuid() => (geteuid(), getegid()),
                false => return Err(PrivilegeError::NotRoot(name.to_owned())),
            }
        }
        None if root => find(USER_DEFAULT)?,
        None => (geteuid(), getegid()),
    };
    set_no_new_privs(true).map_err(refused("no_new_privs"))?;
    if root {
        set_thread_groups(&[]).map_err(refused("setgroups"))?;
    }
    // Whoever is root really, or was before, is not any more.
    set_thread_res_gid(gid, gid, gid).map_err(refused("setresgid"))?;
    set_thread_res_uid(uid, uid, uid).map_err(refused("setresuid"))?;
    let none = CapabilitySet::empty();
    let nothing = CapabilitySets { effective: none, permitted: none, inheritable: none };
    set_capabilities(None, nothing).map_err(refused("capset"))?;
    let left = capabilities(None).map_err(refused("capget"))?;
    if left != nothing || uids()? != [uid; 3] || gids()? != [gid; 3] {
        return Err(PrivilegeError::Left);
    }
    Ok(uid)
}

/// Real, effective and saved.
fn uids() -> Result<[Uid; 3], PrivilegeError> {
    let [mut real, mut effective, mut saved] = [0; 3];
    // SAFETY: writes three numbers, to where there is room for each.
    let done = unsafe { libc::getresuid(&raw mut real, &raw mut effective, &raw mut saved) };
    said(done, "getresuid")?;
    Ok([real, effective, saved].map(Uid::from_raw))
}

/// The same of the group.
fn gids() -> Result<[Gid; 3], PrivilegeError> {
    let [mut real, mut effective, mut saved] = [0; 3];
    // SAFETY: as above.
    let done = unsafe { libc::getresgid(&raw mut real, &raw mut effective, &raw mut saved) };
    said(done, "getresgid")?;
    Ok([real, effective, saved].map(Gid::from_raw))
}

fn said(done: libc::c_int, step: &'static str) -> Result<(), PrivilegeError> {
    match done {
        0 => Ok(()),
        _ => Err(PrivilegeError::Refused { step, why: io::Error::last_os_error() }),
    }
}

fn refused(step: &'static str) -> impl FnOnce(rustix::io::Errno) -> PrivilegeError {
    move |why| PrivilegeError::Refused { step, why: why.into() }
}

/// A user and its group, by name.
fn find(name: &str) -> Result<(Uid, Gid), PrivilegeError> {
    let missing = || PrivilegeError::NoUser(name.to_owned());
    let text = CString::new(name).map_err(|_| missing())?;
    // SAFETY: the name ends in a zero. The entry is read before anything else could ask for another one: privileges are
    // dropped before there are threads.
    let entry = unsafe { libc::getpwnam(text.as_ptr()).as_ref() }.ok_or_else(missing)?;
    Ok((Uid::from_raw(entry.pw_uid), Gid::from_raw(entry.pw_gid)))
}

/// Who captures, if root began it.
pub const USER_DEFAULT: &str = "nobody";
