"""Where the files of a source lie: folders, archives, remote trees."""
