//! What went wrong between two peers' certificates, in words that tell an operator what to look at.

use std::io;

use rustls::{AlertDescription, CertificateError, Error, InvalidMessage};

/// What a failed handshake, or an alert that came later, means; nothing when it is no matter of TLS.
pub(in crate::net) fn handshake_trouble(error: &io::Error) -> Option<String> {
    error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()).map(explain)
}

/// An error of TLS in words. `it` is the other side, or the certificate at hand.
pub(in crate::net) fn explain(error: &Error) -> String {
    match error {
        Error::InvalidCertificate(problem) => certificate(problem),
        Error::AlertReceived(alert) => alert_text(*alert),
        Error::InvalidMessage(InvalidMessage::InvalidContentType) => {
            "it speaks plaintext and this side speaks TLS: all instances need the same [fleet.tls]".into()
        }
        Error::NoCertificatesPresented => "it showed no certificate".into(),
        Error::PeerIncompatible(why) => format!("it does not speak TLS 1.3 as peers do: {why:?}"),
        other => other.to_string(),
    }
}

fn certificate(problem: &CertificateError) -> String {
    match problem {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => "its certificate has expired".into(),
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "its certificate is not valid yet: is the clock of one of the two machines wrong?".into()
        }
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "its certificate comes from another authority than the fleet's".into()
        }
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "its certificate is not made for both servers and clients".into()
        }
        other => format!("its certificate is not good: {other}"),
    }
}

fn alert_text(alert: AlertDescription) -> String {
    match alert {
        AlertDescription::CertificateExpired => {
            "it says that this instance's certificate has expired, or is not valid yet by its clock".into()
        }
        AlertDescription::UnknownCA | AlertDescription::DecryptError => {
            "it says that this instance's certificate comes from another authority than the fleet's".into()
        }
        AlertDescription::BadCertificate
        | AlertDescription::UnsupportedCertificate
        | AlertDescription::CertificateUnknown => {
            format!("it says that this instance's certificate is not good ({alert:?})")
        }
        AlertDescription::ProtocolVersion => "it does not speak TLS 1.3".into(),
        other => format!("it ended the handshake ({other:?})"),
    }
}
