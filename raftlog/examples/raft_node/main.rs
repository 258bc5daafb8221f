//! One replica of the bench (`loadtest bench raft`): the real driver, log, snapshots and transport on real sockets
//! and a real disk, with a state machine that only counts. Not a product: it keeps nothing over a restart.
//!
//! It takes orders, one a line, on standard input, and answers each with a line of JSON; see `orders.rs`.

mod arguments;
mod authority;
mod certificates;
mod disk;
mod gate;
mod load;
mod node;
mod orders;
mod serve;
mod snapshots;
mod table;

use std::{process::ExitCode, sync::Arc};

use arguments::Command;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Any error: there is nobody to handle one differently from another.
type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let done = match arguments::parse(&words) {
        Ok(Command::Certificates { directory, labels }) => certificates::make(&directory, &labels),
        Ok(Command::Run(setup)) => run(*setup),
        Err(error) => Err(error),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("raft_node: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(setup: arguments::Setup) -> Result<()> {
    let (inputs, queue) = std::sync::mpsc::sync_channel(node::INPUTS_MAX);
    let (log, store) = disk::start(&setup, inputs.clone())?;
    let doors = serve::start(&setup, store.clone(), inputs.clone())?;
    let snapshots = snapshots::start(store.clone(), inputs.clone())?;
    println!("{}", serde_json::json!({ "listens": doors.address }));
    let reader = {
        let (inputs, transport) = (inputs.clone(), doors.transport.clone());
        std::thread::spawn(move || orders::read(&inputs, &transport))
    };
    let node = node::Node::new(&setup, Arc::new(store), log, snapshots, doors, inputs)?;
    node.run(&queue)?;
    drop(reader);
    Ok(())
}
