//! The words of the command line that say where a report goes.

use std::path::PathBuf;

use clap::Args;

use super::targets::{Target, Targets, TargetsError};

/// Where a report goes.
#[derive(Clone, Debug, Default, Args)]
pub struct ReportArgs {
    /// Tell the fleet through this instance's gRPC port; may be given more than once
    #[arg(long = "endpoint", value_name = "HOST:GRPC", conflicts_with = "config")]
    pub endpoints: Vec<Target>,
    /// Tell the fleet through the instances of its configuration, conf/pool.toml
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Certificates (PEM) of the fleet's authority: the endpoints speak TLS. A configuration has them in [fleet.tls]
    #[arg(long, value_name = "FILE", requires = "endpoints")]
    pub ca: Option<PathBuf>,
    /// By what name the fleet knows this sniffer [default: HOST:INTERFACE, of a file its content]
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
}

impl ReportArgs {
    /// The instances; none: nothing is reported.
    ///
    /// # Errors
    /// If a file that is named is not good.
    pub fn targets(&self) -> Result<Option<Targets>, TargetsError> {
        match (&self.config, self.endpoints.as_slice()) {
            (Some(config), _) => Targets::of_config(config).map(Some),
            (None, []) => Ok(None),
            (None, endpoints) => Targets::new(endpoints.to_vec(), self.ca.as_deref()).map(Some),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        report: ReportArgs,
    }

    #[test]
    fn endpoints_or_a_configuration_say_where_to() {
        let parse = |line: &[&str]| Line::try_parse_from([&["sniffer"], line].concat()).map(|line| line.report);
        assert_eq!(parse(&[]).unwrap().targets(), Ok(None));
        let two = parse(&["--endpoint", "a:1", "--endpoint", "b:2"]).unwrap();
        assert_eq!(two.targets().unwrap().unwrap().to_string(), "a:1, b:2");
        let none = parse(&["--config", "/nonexistent.toml"]).unwrap();
        assert!(none.targets().unwrap_err().to_string().starts_with("/nonexistent.toml: "));
        for bad in [&["--endpoint", "a"][..], &["--endpoint", "a:1", "--config", "x"], &["--ca", "x"]] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }
}
