"""The HTML report: what its pages say, and the pages themselves."""
