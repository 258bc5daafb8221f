//! What a capture no longer needs once it is open: to be root, and every capability.

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

/// Gives up all privileges for good, as that user if this is root ([`USER_DEFAULT`] if none is named); says who it is now.
///
/// Only threads that start later are without them: call it before there are any.
///
/// # Errors
/// If any could not be given up.
pub fn drop_all(user: Option<&str>) -> Result<Uid, PrivilegeError> {
    let refused = |step| move |why: rustix::io::Errno| PrivilegeError::Refused { step, why: why.into() };
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
        set_thread_res_gid(gid, gid, gid).map_err(refused("setresgid"))?;
        set_thread_res_uid(uid, uid, uid).map_err(refused("setresuid"))?;
    }
    let none = CapabilitySet::empty();
    let nothing = CapabilitySets { effective: none, permitted: none, inheritable: none };
    set_capabilities(None, nothing).map_err(refused("capset"))?;
    let left = capabilities(None).map_err(refused("capget"))?;
    if left != nothing || geteuid() != uid || getegid() != gid {
        return Err(PrivilegeError::Left);
    }
    Ok(uid)
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
