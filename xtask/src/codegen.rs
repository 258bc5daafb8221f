//! Makes Rust from the .proto files. The result is committed, so building the project needs neither protoc nor this.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

/// Every .proto file and the folder its Rust goes to (`<package>.rs`), both from the workspace root.
const PROTOS: &[(&str, &str)] = &[
    ("raftlog/proto/link.proto", "raftlog/src/net/generated"),
    ("api/proto/rocinante.proto", "api/src/generated"),
    ("proxy/proto/relay.proto", "proxy/src/traffic/generated"),
    ("raftlog/examples/raft_node/etcd.proto", "raftlog/examples/raft_node/generated"),
    ("raftlog/examples/raft_node/stream.proto", "raftlog/examples/raft_node/generated"),
];

/// Makes all files and puts them where they belong.
pub fn write() -> Result<(), Box<dyn Error>> {
    for (proto, out_dir) in PROTOS {
        for (path, text) in generate(proto, out_dir)? {
            fs::create_dir_all(root().join(out_dir))?;
            fs::write(&path, text)?;
            println!("{proto} -> {}", path.strip_prefix(root())?.display());
        }
    }
    Ok(())
}

/// Makes all files and compares them with the committed ones.
pub fn check() -> Result<(), Box<dyn Error>> {
    for (proto, out_dir) in PROTOS {
        for (path, text) in generate(proto, out_dir)? {
            if fs::read_to_string(&path).ok().as_deref() != Some(text.as_str()) {
                return Err(format!("{} is not what {proto} makes; run cargo xtask codegen", path.display()).into());
            }
        }
    }
    Ok(())
}

/// The files that `proto` makes: where each belongs and its text.
fn generate(proto: &str, out_dir: &str) -> Result<Vec<(PathBuf, String)>, Box<dyn Error>> {
    let scratch = std::env::temp_dir().join(format!("xtask-codegen-{}", std::process::id()));
    fs::create_dir_all(&scratch)?;
    let made = compile(&root().join(proto), &scratch).and_then(|()| collect(&scratch, &root().join(out_dir)));
    fs::remove_dir_all(&scratch)?;
    made
}

fn compile(proto: &Path, scratch: &Path) -> Result<(), Box<dyn Error>> {
    let include = proto.parent().ok_or("a .proto file lies in a folder")?;
    let files = protox::compile([proto], [include])?;
    tonic_prost_build::configure().bytes(".").out_dir(scratch).emit_rerun_if_changed(false).compile_fds(files)?;
    Ok(())
}

fn collect(scratch: &Path, out_dir: &Path) -> Result<Vec<(PathBuf, String)>, Box<dyn Error>> {
    let mut made = Vec::new();
    for entry in fs::read_dir(scratch)? {
        let entry = entry?;
        made.push((out_dir.join(entry.file_name()), fs::read_to_string(entry.path())?));
    }
    made.sort();
    Ok(made)
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}
