"""What GitOps tools make of our status: their own code, on every reason of the table and on the files of examples/gitops."""
