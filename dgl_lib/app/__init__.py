"""What people use: the command line, photographs, any network on any data set, and tables for papers."""
