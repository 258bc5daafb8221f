//! How the fleet's log is driven: committed settings of elections, which every instance goes by as soon as it has applied
//! them.

/// The settings. Times are in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuning {
    /// Between a leader's heartbeats, and an instance's beats.
    pub heartbeat_ms: u32,
    /// Silence of a group's leader that starts an election.
    pub election_ms: u32,
    /// How silence of a whole instance is told from chance.
    pub detector: Detector,
    /// Whether leaderships of the pin groups are spread over the instances.
    pub spread: bool,
    /// Chaos: leaderships are handed to anybody so often; 0 is never.
    pub shuffle_ms: u32,
}

/// A failure detector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detector {
    /// Phi accrual (Hayashibara et al. 2004): suspects at this phi, in tenths.
    Phi(u32),
    /// Suspects after so many milliseconds of silence.
    Fixed(u32),
}

impl Tuning {
    /// What is wrong with the settings, for people.
    ///
    /// # Errors
    /// One sentence that names the setting and what is possible.
    pub fn check(&self) -> Result<(), String> {
        let within = |name: &str, value: u32, least: u32, most: u32| {
            let fits = (least..=most).contains(&value);
            if fits { Ok(()) } else { Err(format!("{name} is {value}; {least} to {most} is possible")) }
        };
        within("heartbeat_ms", self.heartbeat_ms, 10, 5_000)?;
        within("election_ms", self.election_ms, 50, 60_000)?;
        if self.election_ms < 3 * self.heartbeat_ms {
            return Err(format!(
                "election_ms is {}: at least three heartbeats, {}, are needed",
                self.election_ms,
                3 * self.heartbeat_ms
            ));
        }
        match self.detector {
            Detector::Phi(tenths) => within("detector phi (in tenths)", tenths, 10, 200)?,
            Detector::Fixed(ms) => {
                within("detector fixed (in ms)", ms, 50, 60_000)?;
                if ms < 3 * self.heartbeat_ms {
                    return Err(format!("detector fixed is {ms} ms: at least three heartbeats are needed"));
                }
            }
        }
        if self.shuffle_ms > 0 {
            within("shuffle_ms", self.shuffle_ms, 100, 3_600_000)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_cannot_work_are_named() {
        let good =
            Tuning { heartbeat_ms: 50, election_ms: 300, detector: Detector::Phi(80), spread: true, shuffle_ms: 0 };
        assert_eq!(good.check(), Ok(()));
        for (bad, named) in [
            (Tuning { heartbeat_ms: 5, ..good }, "heartbeat_ms"),
            (Tuning { heartbeat_ms: 200, ..good }, "election_ms"),
            (Tuning { detector: Detector::Phi(0), ..good }, "phi"),
            (Tuning { detector: Detector::Fixed(100), ..good }, "fixed"),
            (Tuning { shuffle_ms: 1, ..good }, "shuffle_ms"),
        ] {
            assert!(bad.check().is_err_and(|text| text.contains(named)), "{bad:?}");
        }
    }
}
