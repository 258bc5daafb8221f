//! The command line: `rocinante run` and everything that asks a running fleet over REST.
//!
//! [`main`] is for the process; [`execute`] does the same with the outside world passed in, so that tests see what a
//! person would see.

mod apply;
mod args;
mod backup;
mod client;
mod flow;
mod flow_args;
mod follow;
mod operate;
mod pki;
mod show;
mod table;
mod transparent;

use std::{
    ffi::OsString,
    io::{self, BufRead, IsTerminal, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::Parser;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::json;

use crate::{
    config,
    rest::json::{
        AppliedJson, ErrorJson, KvJson, KvListJson, KvReadJson, MembersJson, PinJson, PinReadJson, PinsJson,
        SessionJson,
    },
    rest::json::{PoolsJson, StatusJson, TransferJson},
};

use args::{
    Cli, Command, DEFAULT_CONFIG, Freshness, KvCommand, MemberArgs, MemberCommand, PinCommand, Reach, RequestArgs,
    ServerArgs, ServerCommand,
};
pub use args::{KeeperArgs, RunArgs};
use client::{Answer, Client, Endpoint, path, query};

/// Done.
pub const DONE: u8 = 0;
/// Refused or failed; the reason is on standard error.
pub const FAILED: u8 = 1;
/// The command line makes no sense.
pub const USAGE: u8 = 2;

/// Rows asked for at once.
const PAGE_ROWS: u64 = crate::control::check::PAGE_ROWS_MAX as u64;

/// The outside world of a command.
pub struct Console<'w> {
    /// Standard output.
    pub out: &'w mut dyn Write,
    /// Standard error.
    pub err: &'w mut dyn Write,
    /// Standard input.
    pub input: &'w mut dyn BufRead,
    /// Whether a person sits at standard input.
    pub terminal: bool,
    /// Whose instances are asked if no endpoint is given.
    pub default_config: PathBuf,
}

/// Why a command was not done.
#[derive(Debug)]
enum Failure {
    /// An instance said why.
    Refused(ErrorJson),
    /// No instance could be asked.
    Unreached(String),
    /// Something here.
    Reason(String),
    /// The output does not take any more.
    Output(io::Error),
}

type Result<T> = std::result::Result<T, Failure>;

/// The whole program: reads the arguments of the process; `run` is what `rocinante run` does.
pub fn main(run: fn(RunArgs) -> ExitCode) -> ExitCode {
    let (mut out, mut err, mut input) = (io::stdout().lock(), io::stderr().lock(), io::stdin().lock());
    let parsed = match parse(std::env::args_os(), &mut out, &mut err) {
        Ok(Command::Run(args)) => {
            // The instance logs from many threads.
            drop((out, err, input));
            return run(args);
        }
        Ok(Command::VipKeeper(args)) => {
            drop((out, err, input));
            return crate::vip::keeper::run(args);
        }
        Ok(command) => command,
        Err(code) => return code.into(),
    };
    let mut console = Console {
        out: &mut out,
        err: &mut err,
        terminal: io::stdin().is_terminal(),
        input: &mut input,
        default_config: DEFAULT_CONFIG.into(),
    };
    finish(&mut console, parsed).into()
}

/// Does what `arguments` say, the program's name first, except `run`; gives the exit status.
pub fn execute<I: IntoIterator<Item = T>, T: Into<OsString> + Clone>(arguments: I, console: &mut Console<'_>) -> u8 {
    match parse(arguments, console.out, console.err) {
        Ok(command) => finish(console, command),
        Err(code) => code,
    }
}

fn parse<I, T>(arguments: I, out: &mut dyn Write, err: &mut dyn Write) -> std::result::Result<Command, u8>
where
    I: IntoIterator<Item = T>,
    T: Into<OsString> + Clone,
{
    let error = match Cli::try_parse_from(arguments) {
        Ok(cli) => return Ok(cli.command),
        Err(error) => error,
    };
    // A bare `rocinante server` shows its help as an error.
    let (written, code) = match error.use_stderr() {
        true => (write!(err, "{}", error.render()), USAGE),
        false => (write!(out, "{}", error.render()), DONE),
    };
    Err(if written.is_ok() { code } else { FAILED })
}

fn finish(console: &mut Console<'_>, command: Command) -> u8 {
    let json = command.json();
    let result = perform(console, command).and_then(|()| Ok(console.out.flush()?));
    let said = match result {
        Ok(()) => return DONE,
        // Whoever reads the output went away: there is nobody to tell.
        Err(Failure::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        Err(failure) if json => writeln!(console.err, "{}", json!(failure.into_json())),
        Err(Failure::Refused(error)) => {
            let (text, hint) = (table::printable(&error.error), table::printable(&error.hint));
            writeln!(console.err, "rocinante: {text}\nreason: {}; {hint}", table::printable(&error.reason))
        }
        Err(Failure::Unreached(text) | Failure::Reason(text)) => writeln!(console.err, "rocinante: {text}"),
        Err(Failure::Output(error)) => writeln!(console.err, "rocinante: cannot write: {error}"),
    };
    // Where standard error is closed too, the exit status is all that is left.
    said.map_or(FAILED, |()| FAILED)
}

fn perform(console: &mut Console<'_>, command: Command) -> Result<()> {
    match command {
        Command::Run(_) | Command::VipKeeper(_) => Err(Failure::reason("that is not a command of this console".into())),
        Command::Check { config, instance } => check(console, &config, instance.as_deref()),
        Command::Tune(args) => operate::tune(console, &args),
        Command::Snapshot(command) => backup::perform(console, command),
        Command::Pki(command) => pki::perform(console, command),
        Command::Transparent(command) => transparent::perform(console, command),
        Command::Apply(args) => apply::apply(console, &args),
        Command::Status { reach } => {
            let answer = console.client(&reach)?.get("/status")?;
            console.show(&reach, &answer, |status: StatusJson| show::status(&status))
        }
        Command::Server(command) => server(console, command),
        Command::Pin(command) => pin(console, command),
        Command::Kv(command) => kv(console, command),
        Command::Flow(command) => flow::perform(console, command),
        Command::Member(command) => member(console, command),
    }
}

fn check(console: &mut Console<'_>, config: &Path, instance: Option<&str>) -> Result<()> {
    let report = config::check_report(config, instance).map_err(Failure::reason)?;
    Ok(writeln!(console.out, "{report}")?)
}

fn server(console: &mut Console<'_>, command: ServerCommand) -> Result<()> {
    match command {
        ServerCommand::List { pool, reach } => {
            let path = pool.map_or_else(|| "/pools".into(), |pool| path(&["pools", &pool]));
            let answer = console.client(&reach)?.get(&path)?;
            console.show(&reach, &answer, |read: PoolsJson| show::pools(&read.pools))
        }
        ServerCommand::Add { pool, name, address, weight, reach } => {
            let (ip, port) = (address.ip(), address.port());
            let body = json!({ "name": name, "address": ip, "port": port, "weight": weight }).to_string();
            let answer = console.client(&reach)?.post(&path(&["pools", &pool, "servers"]), body.as_bytes())?;
            console.applied(&reach, &answer, &format!("added {name} at {address} to pool {pool}"))
        }
        ServerCommand::Remove(ServerArgs { pool, name, reach }) => {
            let answer = console.client(&reach)?.delete(&path(&["pools", &pool, "servers", &name]))?;
            console.applied(&reach, &answer, &format!("removed {name} from pool {pool}"))
        }
        ServerCommand::Drain(ServerArgs { pool, name, reach }) => {
            let answer = console.client(&reach)?.post(&path(&["pools", &pool, "servers", &name, "drain"]), &[])?;
            console.applied(&reach, &answer, &format!("{name} of pool {pool} takes no new clients"))
        }
        ServerCommand::Enable(ServerArgs { pool, name, reach }) => {
            let answer = console.client(&reach)?.post(&path(&["pools", &pool, "servers", &name, "enable"]), &[])?;
            console.applied(&reach, &answer, &format!("{name} of pool {pool} takes new clients"))
        }
    }
}

fn pin(console: &mut Console<'_>, command: PinCommand) -> Result<()> {
    match command {
        PinCommand::List { pool, limit, reading, reach } => {
            let client = console.client(&reach)?;
            let (pins, more) = all_pins(&client, &pool, limit, reading.consistency)?;
            match reach.json {
                true => console.json(&json!({ "pool": pool, "pins": pins, "more": more }))?,
                false => write!(console.out, "{}", show::pins(&pins))?,
            }
            console.warn_of_more(more)
        }
        PinCommand::Get { pin, reading, reach } => {
            let query = query(&[consistency(reading.consistency)]);
            let path = path(&["pins", &pin.pool, &pin.client.to_string()]) + &query;
            let answer = console.client(&reach)?.get(&path)?;
            console.show(&reach, &answer, |read: PinReadJson| show::pins(&[read.pin]))
        }
        PinCommand::Delete { pin, reach } => {
            let answer = console.client(&reach)?.delete(&path(&["pins", &pin.pool, &pin.client.to_string()]))?;
            console.applied(&reach, &answer, &format!("removed the pin of {} in pool {}", pin.client, pin.pool))
        }
    }
}

/// Page after page up to `limit` pins, and whether there are more.
fn all_pins(client: &Client, pool: &str, limit: u64, fresh: Freshness) -> Result<(Vec<PinJson>, bool)> {
    let mut pins: Vec<PinJson> = Vec::new();
    let mut after = None;
    loop {
        let rows = (limit - pins.len() as u64).min(PAGE_ROWS);
        let page = query(&[("after", after), ("limit", Some(rows.to_string())), consistency(fresh)]);
        let page: PinsJson = client.get(&(path(&["pins", pool]) + &page))?.read()?;
        let (empty, next) = (page.pins.is_empty(), page.next);
        pins.extend(page.pins);
        let full = pins.len() as u64 >= limit;
        match next {
            Some(next) if !full && !empty => after = Some(next.to_string()),
            next => return Ok((pins, next.is_some())),
        }
    }
}

fn kv(console: &mut Console<'_>, command: KvCommand) -> Result<()> {
    match command {
        KvCommand::Get { key, reading, reach } => {
            let path = path(&["kv", &key]) + &query(&[consistency(reading.consistency)]);
            let answer = console.client(&reach)?.get(&path)?;
            console.show(&reach, &answer, |read: KvReadJson| show::value(&read.item) + "\n")
        }
        KvCommand::Put { key, value, if_revision, request, reach } => {
            let path = path(&["kv", &key]) + &terms(if_revision, request);
            let answer = console.client(&reach)?.put(&path, value.as_bytes())?;
            console.applied(&reach, &answer, &format!("set {key}"))
        }
        KvCommand::Delete { key, if_revision, request, reach } => {
            let path = path(&["kv", &key]) + &terms(if_revision, request);
            let answer = console.client(&reach)?.delete(&path)?;
            console.applied(&reach, &answer, &format!("removed {key}"))
        }
        KvCommand::OpenSession { reach } => {
            let answer = console.client(&reach)?.post("/sessions", &[])?;
            console.show(&reach, &answer, |opened: SessionJson| format!("{}\n", opened.session))
        }
        KvCommand::CloseSession { session, reach } => {
            let answer = console.client(&reach)?.delete(&path(&["sessions", &session.to_string()]))?;
            console.applied(&reach, &answer, &format!("closed session {session}"))
        }
        KvCommand::List { prefix, limit, reading, reach } => {
            let client = console.client(&reach)?;
            let (items, more) = all_keys(&client, &prefix, limit, reading.consistency)?;
            match reach.json {
                true => console.json(&json!({ "items": items, "more": more }))?,
                false => write!(console.out, "{}", show::keys(&items))?,
            }
            console.warn_of_more(more)
        }
    }
}

/// Page after page up to `limit` keys, and whether there are more.
fn all_keys(client: &Client, prefix: &str, limit: u64, fresh: Freshness) -> Result<(Vec<KvJson>, bool)> {
    let mut items: Vec<KvJson> = Vec::new();
    loop {
        let after = items.last().map(|item| item.key.clone());
        let rows = (limit - items.len() as u64).min(PAGE_ROWS);
        let prefix = ("prefix", Some(prefix.to_owned()));
        let page = query(&[prefix, ("after", after), ("limit", Some(rows.to_string())), consistency(fresh)]);
        let page: KvListJson = client.get(&format!("/kv{page}"))?.read()?;
        let empty = page.items.is_empty();
        items.extend(page.items);
        if !page.more || empty || items.len() as u64 >= limit {
            return Ok((items, page.more));
        }
    }
}

fn member(console: &mut Console<'_>, command: MemberCommand) -> Result<()> {
    match command {
        MemberCommand::List { reach } => {
            let client = console.client(&reach)?;
            let answer = client.get("/members")?;
            let leader = client.get("/leader")?.read::<crate::rest::json::LeaderJson>()?.leader;
            console.show(&reach, &answer, |read: MembersJson| show::members(&read.members, leader.as_deref()))
        }
        MemberCommand::Add { label, host, grpc, rest, metrics, reach } => {
            let body = json!({ "label": label, "address": host, "grpc": grpc, "rest": rest, "metrics": metrics });
            let answer = console.client(&reach)?.post("/members", body.to_string().as_bytes())?;
            console.applied(&reach, &answer, &format!("added {label} as a learner"))
        }
        MemberCommand::Remove(MemberArgs { label, reach }) => {
            let answer = console.client(&reach)?.delete(&path(&["members", &label]))?;
            console.applied(&reach, &answer, &format!("removed {label}"))
        }
        MemberCommand::Promote(MemberArgs { label, reach }) => {
            let answer = console.client(&reach)?.post(&path(&["members", &label, "promote"]), &[])?;
            console.applied(&reach, &answer, &format!("{label} votes"))
        }
        MemberCommand::Events { reach } => operate::events(console, &reach),
        MemberCommand::Transfer(MemberArgs { label, reach }) => {
            let answer = console.client(&reach)?.post(&path(&["members", &label, "transfer"]), &[])?;
            console.show(&reach, &answer, |done: TransferJson| format!("{} leads\n", table::printable(&done.leader)))
        }
    }
}

fn consistency(fresh: Freshness) -> (&'static str, Option<String>) {
    let word = match fresh {
        Freshness::Local => None,
        Freshness::Bounded => Some("bounded".into()),
        Freshness::Linearizable => Some("linearizable".into()),
    };
    ("consistency", word)
}

fn terms(if_revision: Option<u64>, request: RequestArgs) -> String {
    let RequestArgs { session, sequence, answered_below } = request;
    let pairs = [
        ("if_revision", if_revision),
        ("session", session),
        ("sequence", sequence),
        ("answered_below", answered_below),
    ];
    query(&pairs.map(|(name, number)| (name, number.map(|number| number.to_string()))))
}

impl Console<'_> {
    /// Who can be asked: those given, or all instances of the default configuration.
    fn client(&self, reach: &Reach) -> Result<Client> {
        match reach.endpoints.is_empty() {
            true => instances_of(&self.default_config).map(Client::new),
            false => Ok(Client::new(reach.endpoints.clone())),
        }
    }

    /// Prints an answer, as it came or as `people` want it.
    fn show<T: DeserializeOwned>(
        &mut self,
        reach: &Reach,
        answer: &Answer,
        people: impl FnOnce(T) -> String,
    ) -> Result<()> {
        match reach.json {
            true => Ok(writeln!(self.out, "{}", answer.body)?),
            false => Ok(write!(self.out, "{}", people(answer.read()?))?),
        }
    }

    /// Prints that a change was done.
    fn applied(&mut self, reach: &Reach, answer: &Answer, done: &str) -> Result<()> {
        let done = table::printable(done);
        self.show(reach, answer, |applied: AppliedJson| {
            format!("{done} (index {}, epoch {})\n", applied.index, applied.epoch)
        })
    }

    fn json(&mut self, value: &impl Serialize) -> Result<()> {
        let text = serde_json::to_string(value).map_err(|error| Failure::reason(error.to_string()))?;
        Ok(writeln!(self.out, "{text}")?)
    }

    fn warn_of_more(&mut self, more: bool) -> Result<()> {
        match more {
            true => Ok(writeln!(self.err, "there are more: use --limit")?),
            false => Ok(()),
        }
    }
}

/// The REST ports of all instances of a configuration file.
fn instances_of(file: &Path) -> Result<Vec<Endpoint>> {
    if !file.exists() {
        let text = format!("there is no {}: say whom to ask with --endpoint HOST:REST", file.display());
        return Err(Failure::reason(text));
    }
    let config = config::check_file(file).map_err(|mistakes| Failure::reason(mistakes.to_string()))?;
    let texts = config.fleet.instances.iter().map(|instance| instance.endpoint(instance.rest));
    texts.map(|text| text.parse().map_err(|error| Failure::reason(format!("{text}: {error}")))).collect()
}

impl Failure {
    fn reason(text: String) -> Self {
        Self::Reason(text)
    }

    /// The failure as an instance would say it.
    fn into_json(self) -> ErrorJson {
        let (error, reason, hint, retry) = match self {
            Self::Refused(error) => return error,
            Self::Unreached(text) => {
                (text, "unreachable", "name instances that run with --endpoint HOST:REST", "later")
            }
            Self::Reason(text) => (text, "failed", "the error says what is wrong", "never"),
            Self::Output(error) => {
                (format!("cannot write: {error}"), "failed", "the output does not take more", "never")
            }
        };
        ErrorJson { error, reason: reason.into(), hint: hint.into(), retry: retry.into(), paths: Vec::new() }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}
