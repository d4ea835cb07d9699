startNavigation();
startList();
startFigures();
startKeys();
startReader();
startLive();
