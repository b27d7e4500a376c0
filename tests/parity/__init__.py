"""Our stages over a golden's inputs, under the golden's keys."""
