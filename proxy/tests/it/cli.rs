//! The command line as a person or a script meets it: what is printed where, and the exit status.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use proxy::{cli, control::ControlError};
use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};

use crate::client::Instance;

/// What a command left behind.
#[derive(Debug)]
pub struct Ran {
    pub code: u8,
    pub out: String,
    pub err: String,
}

impl Ran {
    pub fn json(&self) -> Value {
        assert_eq!(self.code, 0, "{self:?}");
        serde_json::from_str(&self.out).unwrap()
    }
}

/// Runs `rocinante LINE` with `input` typed at a terminal, if any.
pub fn run_with(line: &str, input: Option<&str>, default_config: &Path) -> Ran {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let mut typed = input.unwrap_or_default().as_bytes();
    let mut console = cli::Console {
        out: &mut out,
        err: &mut err,
        input: &mut typed,
        terminal: input.is_some(),
        default_config: default_config.into(),
    };
    let code = cli::execute(std::iter::once("rocinante").chain(line.split_whitespace()), &mut console);
    Ran { code, out: String::from_utf8(out).unwrap(), err: String::from_utf8(err).unwrap() }
}

/// Runs `rocinante LINE --endpoint ...`.
pub fn run(instance: &Instance, line: &str) -> Ran {
    run_with(&format!("{line} --endpoint {}", instance.rest), None, Path::new("/nonexistent/pool.toml"))
}

/// Runs it and expects it done, with exactly this on standard output.
pub fn check(instance: &Instance, line: &str, expected: &str) {
    let ran = run(instance, line);
    assert_eq!((ran.code, ran.out.as_str(), ran.err.as_str()), (0, expected, ""), "{line}");
}

/// Runs it and expects it refused, with this in the text on standard error.
pub fn refused(instance: &Instance, line: &str, expected: &str) {
    let ran = run(instance, line);
    assert_eq!((ran.code, ran.out.as_str()), (1, ""), "{line}: {ran:?}");
    assert!(ran.err.contains(expected), "{line}: {:?} should say {expected:?}", ran.err);
}

#[test]
fn status_is_a_table_for_people() {
    let instance = Instance::start();
    let expected = "\
fleet     test (00000000000000000000000000000abc)
instance  a, leader in term 3, ready
leader    a
epoch     1, version 0.0.0

INSTANCE  ID  ROLE    ADDRESS     GRPC  REST  METRICS  REACHABLE  INCARNATION
a          1  leader  127.0.0.1  35001  8001     2112  yes        0000000000000001
b          2  voter   127.0.0.2  35001  8001     2112  yes        0000000000000002

GROUP  ROLE    TERM  LEADER  LAST  COMMITTED  APPLIED    LEASE  TABLES
    0  leader     3  a          1          1        1  2500 ms  kv 0 000000000000feed

POOL  SERVER  ADDRESS         WEIGHT  STATE    VERDICT  VOTES        PINS
web   s1      127.0.0.1:8887     100  enabled  up       a=up b=down   250
web   s2      127.0.0.1:8888     100  enabled  up       a=up b=down     0
";
    check(&instance, "status", expected);
    let seen = run(&instance, "status --json").json();
    assert_eq!(seen, instance.ask("GET /status", "").json());
    instance.control.not_ready(&["no lease for group 1"]);
    let ran = run(&instance, "status");
    assert!(ran.out.contains("not ready no lease for group 1\n"), "{}", ran.out);
    let vips = "192.0.2.1:80, [2001:db8::1]:80 (it is on no interface)";
    for (wanted, announced, error, line) in [
        (true, Some(true), None, format!("announced: {vips}")),
        (false, Some(false), None, format!("withdrawn: {vips}; the instance is not ready")),
        (true, None, Some("no answer"), format!("unknown, nobody acknowledged anything: {vips}; no answer")),
    ] {
        instance.control.announces(wanted, announced, error);
        let ran = run(&instance, "status");
        assert!(ran.out.contains(&format!("\nvips      {line}\n")), "{}", ran.out);
    }
    instance.stop();
}

#[test]
fn servers() {
    let instance = Instance::start();
    check(
        &instance,
        "server add web s3 127.0.0.1:8889 --weight 50",
        "added s3 at 127.0.0.1:8889 to pool web (index 2, epoch 2)\n",
    );
    check(&instance, "server drain web s3", "s3 of pool web takes no new clients (index 3, epoch 3)\n");
    let list = run(&instance, "server list web");
    let line = "web   s3      127.0.0.1:8889      50  draining  up       a=up b=down     0\n";
    assert!(list.out.ends_with(line), "{}", list.out);
    check(&instance, "server enable web s3", "s3 of pool web takes new clients (index 4, epoch 4)\n");
    check(&instance, "server remove web s3", "removed s3 from pool web (index 5, epoch 5)\n");
    refused(&instance, "server remove web s3", "has no server \"s3\"");
    refused(&instance, "server list none", "there is no pool \"none\"");
    refused(&instance, "server add web s9 127.0.0.1:1 --weight 99999", "weight 99999 is above 65535");
    assert_eq!(run(&instance, "server list --json").json()["epoch"], 5);
    instance.stop();
}

#[test]
fn pins() {
    let instance = Instance::start();
    let get = "\
CLIENT      SERVER  ADDRESS         STATE    EXPIRES IN  EPOCH  REVISION
127.64.0.7  s1      127.0.0.1:8887  settled     29m 59s      1         1
";
    check(&instance, "pin get web 127.64.0.7", get);
    assert_eq!(run(&instance, "pin get web 127.64.0.7 --json").json()["expires_in_ms"], 1_799_400);
    check(&instance, "pin delete web 127.64.0.7", "removed the pin of 127.64.0.7 in pool web (index 2, epoch 1)\n");
    refused(&instance, "pin get web 127.64.0.7", "has no pin");
    let all = run(&instance, "pin list web --json").json();
    assert_eq!((all["pins"].as_array().unwrap().len(), &all["more"]), (249, &json!(false)));
    let some = run(&instance, "pin list web --limit 3 --consistency linearizable");
    assert_eq!((some.code, some.out.lines().count()), (0, 4));
    assert_eq!(some.err, "there are more: use --limit\n");
    assert_eq!(instance.control.linearizable_reads(), 1);
    instance.stop();
}

#[test]
fn keys() {
    let instance = Instance::start();
    check(&instance, "kv put a/b?c blue", "set a/b?c (index 2, epoch 1)\n");
    check(&instance, "kv get a/b?c", "blue\n");
    let read = run(&instance, "kv get a/b?c --json").json();
    assert_eq!(read, json!({ "key": "a/b?c", "value": "blue", "revision": 2, "applied_index": 2 }));
    refused(&instance, "kv put a/b?c red --if-revision 0", "the revision is 2, not 0");
    check(&instance, "kv put d green --if-revision 0", "set d (index 3, epoch 1)\n");
    check(&instance, "kv list", "KEY    REVISION  VALUE\na/b?c         2  blue\nd             3  green\n");
    check(&instance, "kv list d", "KEY  REVISION  VALUE\nd           3  green\n");
    check(&instance, "kv delete d", "removed d (index 4, epoch 1)\n");
    refused(&instance, "kv get d", "there is no key \"d\"");
    instance.stop();
}

#[test]
fn sessions() {
    let instance = Instance::start();
    check(&instance, "kv open-session", "2\n");
    for _ in 0..2 {
        check(
            &instance,
            "kv put color blue --session 2 --sequence 7 --answered-below 7",
            "set color (index 3, epoch 1)\n",
        );
        check(&instance, "kv delete color --session 2 --sequence 8", "removed color (index 4, epoch 1)\n");
    }
    check(&instance, "kv close-session 2", "closed session 2 (index 5, epoch 1)\n");
    refused(&instance, "kv put color blue --session 2 --sequence 9", "there is no session 2");
    for half in ["--session 2", "--sequence 2", "--answered-below 2"] {
        assert_eq!(run(&instance, &format!("kv put color blue {half}")).code, 2, "{half}");
    }
    instance.stop();
}

#[test]
fn lists_longer_than_a_page_are_whole() {
    let instance = Instance::start();
    for n in 0..1_100 {
        assert_eq!(instance.ask(&format!("POST /submit/k{n:05}/v"), "").status, 200);
    }
    let all = run(&instance, "kv list k --limit 5000 --json").json();
    assert_eq!((all["items"].as_array().unwrap().len(), &all["more"]), (1_100, &json!(false)));
    let some = run(&instance, "kv list k --limit 1050 --json");
    assert_eq!(some.err, "there are more: use --limit\n");
    assert_eq!(some.json()["items"].as_array().unwrap().len(), 1_050);
    instance.stop();
}

#[test]
fn members() {
    let instance = Instance::start();
    check(&instance, "member add c 127.0.0.3 --rest 8003", "added c as a learner (index 2, epoch 1)\n");
    let expected = "\
INSTANCE  ID  ROLE     ADDRESS     GRPC  REST  METRICS  REACHABLE  INCARNATION
a          1  leader   127.0.0.1  35001  8001     2112  yes        0000000000000001
b          2  voter    127.0.0.2  35001  8001     2112  yes        0000000000000002
c          3  learner  127.0.0.3  35001  8003     2112  no         -
";
    check(&instance, "member list", expected);
    check(&instance, "member promote c", "c votes (index 3, epoch 1)\n");
    check(&instance, "member transfer c", "c leads\n");
    check(&instance, "member remove b", "removed b (index 4, epoch 1)\n");
    refused(&instance, "member remove b", "there is no instance \"b\"");
    instance.stop();
}

#[test]
fn settings_that_are_not_named_stay_as_they_are() {
    let instance = Instance::start();
    let configured = "heartbeat 500 ms, election 5000 ms, detector phi:9.5, spread true, shuffle never\n";
    let nothing =
        format!("nothing is committed: every instance goes by its configuration\n{}: {configured}", instance.rest);
    check(&instance, "tune", &nothing);
    assert_eq!(instance.control.linearizable_reads(), 0);
    let one = "heartbeat 500 ms, election 5000 ms, detector phi:9.5, spread false, shuffle never";
    check(&instance, "tune --spread false", &format!("{one} (index 2, epoch 1)\n"));
    let two = "heartbeat 500 ms, election 6000 ms, detector phi:9.5, spread false, shuffle never";
    check(&instance, "tune --election 6000", &format!("{two} (index 3, epoch 1)\n"));
    assert_eq!(instance.control.linearizable_reads(), 2, "what is changed is what counts");
    check(&instance, "tune", &format!("{two}\n"));
    let done = "every instance goes by its configuration (index 4, epoch 1)\n";
    check(&instance, "tune --reset", done);
    check(&instance, "tune", &nothing);
    instance.stop();
}

#[test]
fn errors_say_what_and_why_on_standard_error() {
    let instance = Instance::start();
    instance.control.fail(Some(ControlError::UnknownOutcome("the leader went away".into())));
    let ran = run(&instance, "kv put k v");
    assert_eq!(ran.code, 1);
    let expected = "rocinante: the leader went away\n\
                    reason: unknown_outcome; it may still take effect; read before sending it again\n";
    assert_eq!(ran.err, expected);
    instance.stop();
}

#[test]
fn errors_are_json_where_the_answer_would_be() {
    let instance = Instance::start();
    let failed = |line: &str| {
        let ran = run_with(line, None, Path::new("/nonexistent/pool.toml"));
        assert_eq!((ran.code, ran.out.as_str()), (1, ""), "{line}: {ran:?}");
        assert_eq!(ran.err.lines().count(), 1, "{line}: {ran:?}");
        serde_json::from_str::<Value>(&ran.err).unwrap_or_else(|error| panic!("{line}: {error}: {ran:?}"))
    };
    let endpoint = format!("--endpoint {}", instance.rest);
    // As the instance said it.
    for (line, path) in [("kv get nothing", "/kv/nothing"), ("pin get web 10.0.0.1", "/pins/web/10.0.0.1")] {
        let told = failed(&format!("{line} --json {endpoint}"));
        assert_eq!(told, instance.ask(&format!("GET {path}"), "").json(), "{line}");
    }
    let wrong = failed(&format!("tune --heartbeat 1 --json {endpoint}"));
    assert_eq!((&wrong["reason"], &wrong["retry"]), (&json!("invalid"), &json!("never")));
    let alone = failed(&format!("status --json --endpoint {}", closed_port()));
    assert_eq!((&alone["reason"], &alone["retry"]), (&json!("unreachable"), &json!("later")));
    assert!(alone["error"].as_str().unwrap().starts_with("no instance answers\n"), "{alone}");
    for line in ["member list --json", "apply --json --config /nonexistent/pool.toml", "snapshot inspect none --json"] {
        let local = failed(line);
        assert_eq!(local["reason"], "failed", "{line}: {local}");
        assert!(local["hint"].is_string() && local["retry"].is_string(), "{line}: {local}");
    }
    instance.stop();
}

#[test]
fn usage_errors_and_help_have_their_own_status() {
    let usage = |line: &str| {
        let ran = run_with(line, None, Path::new("none"));
        assert_eq!((ran.code, ran.out.as_str()), (2, ""), "{line}: {ran:?}");
        assert!(!ran.err.is_empty(), "{line}");
    };
    for line in ["", "typo", "server", "server add web", "kv put k", "pin get web nobody", "status --endpoint nothing"]
    {
        usage(line);
    }
    usage("server add web s1 127.0.0.1");
    usage("pin list web --limit 0");
    usage("run");
    for line in ["flow", "flow get typo", "flow get 5/x", "flow get 6/1", "flow label 5/1", "flow label 5/1 os"] {
        usage(line);
    }
    usage("flow verdict 5/1 drop");
    usage("flow list --all --limit 5");
    usage("flow watch --count 0");
    let commands = "run check apply status server pin kv flow member tune snapshot pki";
    for command in commands.split(' ') {
        let ran = run_with(&format!("{command} --help"), None, Path::new("none"));
        assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{command}");
    }
    for leaf in [
        "run",
        "check",
        "apply",
        "status",
        "server",
        "pin",
        "kv",
        "member",
        "snapshot",
        "pki",
        "server list",
        "server add",
        "server remove",
        "server drain",
        "server enable",
        "pin list",
        "pin get",
        "pin delete",
        "kv get",
        "kv put",
        "kv delete",
        "kv list",
        "kv open-session",
        "kv close-session",
        "flow list",
        "flow get",
        "flow watch",
        "flow label",
        "flow verdict",
        "member list",
        "member add",
        "member remove",
        "member promote",
        "member transfer",
        "member events",
        "tune",
        "snapshot save",
        "snapshot inspect",
        "snapshot restore",
        "pki init",
        "pki issue",
    ] {
        let ran = run_with(&format!("{leaf} --help"), None, Path::new("none"));
        // The line of the usage, which comes before, names every command.
        let after = ran.out.split_once("\nOptions:\n").map(|(_, after)| after);
        let shows = after.is_some_and(|after| after.contains(&format!("rocinante {leaf}")));
        assert!(shows, "{leaf} --help shows an example: {}", ran.out);
    }
    assert_eq!(run_with("--version", None, Path::new("none")).code, 0);
}

#[test]
fn without_anybody_to_ask_it_says_so() {
    let ran = run_with("status", None, Path::new("/nonexistent/pool.toml"));
    assert_eq!((ran.code, ran.out.as_str()), (1, ""));
    assert!(ran.err.contains("--endpoint HOST:REST"), "{}", ran.err);
    let closed = closed_port();
    let ran = run_with(&format!("status --endpoint {closed}"), None, Path::new("none"));
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("no instance answers") && ran.err.contains(&closed), "{}", ran.err);
}

#[test]
fn a_backup_is_written_to_a_new_file_of_its_own() {
    let instance = Instance::start();
    let path = |name: &str| std::env::temp_dir().join(format!("rocinante-cli-backup-{}{name}", std::process::id()));
    let (file, staged, elsewhere) = (path(""), path(".new"), path("-elsewhere"));
    std::fs::write(&elsewhere, "theirs").unwrap();
    std::os::unix::fs::symlink(&elsewhere, &staged).unwrap();
    // What this instance sends is no backup, so what came of it stays beside.
    refused(&instance, &format!("snapshot save {}", file.display()), ".new");
    assert_eq!(std::fs::read_to_string(&elsewhere).unwrap(), "theirs");
    let made = std::fs::symlink_metadata(&staged).unwrap();
    assert!(made.is_file() && made.permissions().mode() & 0o777 == 0o600, "{made:?}");
    // Left behind with a mode that others can read, it is not used again.
    std::fs::set_permissions(&staged, PermissionsExt::from_mode(0o644)).unwrap();
    refused(&instance, &format!("snapshot save {}", file.display()), ".new");
    assert_eq!(std::fs::metadata(&staged).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(!file.exists());
    for made in [staged, elsewhere] {
        std::fs::remove_file(made).unwrap();
    }
    instance.stop();
}

#[test]
fn a_dead_instance_is_passed_over() {
    let instance = Instance::start();
    let line = format!("kv put k v --endpoint {} --endpoint {}", closed_port(), instance.rest);
    let ran = run_with(&line, None, Path::new("none"));
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
    instance.stop();
}

#[test]
fn a_fleet_without_a_leader_is_asked_again() {
    let instance = Instance::start();
    instance.control.fail(Some(ControlError::Unavailable("no leader".into())));
    let control = &instance.control;
    let again = std::thread::scope(|scope| {
        let waiting = scope.spawn(|| run(&instance, "kv put k v"));
        while control.failed() == 0 && !waiting.is_finished() {
            std::thread::sleep(Duration::from_millis(1)); // between two looks
        }
        control.fail(None);
        waiting.join().unwrap()
    });
    assert_eq!(again.code, 0, "{again:?}");
    assert!(control.failed() > 0, "it was told that there is no leader");
    control.fail(Some(ControlError::Unavailable("no leader".into())));
    refused(&instance, "kv put k v", "no leader");
    instance.stop();
}

#[test]
fn a_change_whose_answer_was_lost_is_not_sent_again() {
    let instance = Instance::start();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let liar = std::thread::spawn(move || {
        let mut seen = 0;
        for stream in listener.incoming().take(2) {
            let mut stream = stream.unwrap();
            let mut buffer = [0; 1024];
            seen += usize::from(stream.read(&mut buffer).unwrap() > 0);
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n{").unwrap();
        }
        seen
    });
    let both = format!("--endpoint {address} --endpoint {}", instance.rest);
    let change = run_with(&format!("kv put k v {both}"), None, Path::new("none"));
    assert_eq!(change.code, 1);
    assert!(change.err.contains("it may still take effect"), "{}", change.err);
    let read = run_with(&format!("status {both}"), None, Path::new("none"));
    assert_eq!(read.code, 0, "{}", read.err);
    assert_eq!(liar.join().unwrap(), 2);
    assert_eq!(instance.ask("GET /kv/k", "").status, 404);
    instance.stop();
}

#[test]
fn apply_shows_asks_and_changes() {
    let instance = Instance::start();
    let file = Scratch::new("apply", &instance);
    let config = file.0.display();
    let line = format!("apply --config {config}");

    let refused = run_with(&line, None, Path::new("none"));
    assert_eq!(refused.code, 1);
    assert!(refused.out.contains("+ web: server s3 127.0.0.1:8889 weight 100\n"), "{}", refused.out);
    assert!(refused.err.contains("say --yes"), "{}", refused.err);
    let declined = run_with(&line, Some("n\n"), Path::new("none"));
    assert_eq!(declined.code, 1);
    assert!(declined.out.ends_with("to the fleet? [y/N] "), "{}", declined.out);
    assert_eq!(instance.control.specs()[0].servers.len(), 2);

    let done = run_with(&line, Some("y\n"), Path::new("none"));
    assert_eq!((done.code, done.err.as_str()), (0, ""), "{}", done.out);
    assert!(done.out.ends_with("applied (index 2, epoch 2)\n"), "{}", done.out);
    assert_eq!(instance.control.specs()[0].servers.len(), 3);
    let again = run_with(&format!("{line} --yes"), None, Path::new("none"));
    assert_eq!((again.code, again.out.as_str()), (0, "nothing to change\n"));
    let again = run_with(&format!("{line} --yes --json"), None, Path::new("none")).json();
    assert_eq!(again, json!({ "changes": [], "applied": null }));
    // The same file tells the other commands whom to ask.
    assert_eq!(run_with("status", None, &file.0).code, 0);
    instance.stop();
}

#[test]
fn a_bad_file_is_refused_before_anybody_is_asked() {
    let file = std::env::temp_dir().join(format!("rocinante-cli-bad-{}.toml", std::process::id()));
    std::fs::write(&file, "[fleet]\nname = 7\n").unwrap();
    for line in ["check", "apply --yes"] {
        let ran = run_with(&format!("{line} --config {}", file.display()), None, Path::new("none"));
        assert_eq!((ran.code, ran.out.as_str()), (1, ""), "{line}");
        assert!(ran.err.contains(":2:"), "{line}: {}", ran.err);
    }
    std::fs::remove_file(&file).unwrap();
}

/// A configuration of the memory fleet's pool with a third server, removed at the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str, instance: &Instance) -> Self {
        let path = std::env::temp_dir().join(format!("rocinante-cli-{name}-{}.toml", std::process::id()));
        let (host, rest) = (instance.rest.ip(), instance.rest.port());
        let mut text = format!(
            "[fleet]\nname = \"test\"\ndata_dir = \"data\"\n\n[[fleet.instance]]\nlabel = \"a\"\naddress = \"{host}\"\n\
             grpc = 1\nrest = {rest}\nmetrics = 2\n\n[[pool]]\nname = \"web\"\nbind = \":9001\"\nprotocol = \"tcp\"\n"
        );
        for (server, port) in [("s1", 8887), ("s2", 8888), ("s3", 8889)] {
            text += &format!("\n[[pool.server]]\nname = \"{server}\"\naddress = \"127.0.0.1\"\nport = {port}\n");
        }
        std::fs::write(&path, text).unwrap();
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        std::fs::remove_file(&self.0).unwrap();
    }
}

/// An address at which nobody listens, nor will: its port is taken by a socket that never does.
pub fn closed_port() -> String {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    // It is closed with the process.
    std::mem::forget(socket);
    address.to_string()
}
